// The store of prefixes: full blocks by key, in memory and on disk. A miss is not an error, and whatever does not verify is
// a miss. The digest is made by the worker that computed the block and travels with it to the worker that uses it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/block_key.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "base/status.h"

namespace baton {

struct BlockHeader {
  BlockKey key, parent;
  Digest128 digest;           // XXH3-128 of the block's bytes as in the pool
  uint32_t tokens = 0;        // in this block
  uint32_t depth = 0;         // position in its chain, 0 = first block
  std::vector<TokenId> token_ids;  // of this block; lets `store export` name what it holds
};
struct StoredBlock {
  BlockHeader header;
  std::vector<std::byte> bytes;
  bool from_disk = false;
};
struct BlockStoreStats {
  uint64_t blocks_memory = 0, bytes_memory = 0, blocks_disk = 0, bytes_disk = 0;
  uint64_t hits_memory = 0, hits_disk = 0, misses = 0, puts = 0, duplicates = 0, corrupt = 0, evictions = 0, dropped = 0;
};
/// A change of what the store holds, for the coordinator's index.
struct BlockStoreEvent {
  bool added = false;
  BlockKey key;
};

/// Thread: any.
class BlockStore {
 public:
  virtual ~BlockStore() = default;
  /// Length of the longest prefix of `chain` that is held (no bytes are read; a block may still turn out bad on Read).
  virtual size_t Lookup(std::span<const BlockKey> chain) = 0;
  /// The block, verified; kNotFound on a miss (also when what is there does not verify: counted, dropped).
  virtual Result<StoredBlock> Read(const BlockKey& key) = 0;
  /// Takes a block. Durable once Flush returned ok. A key already held is ok and counted. Errors: kExhausted (quota or full
  /// disk; the store goes on serving), kInvalid (size differs from the store's block size, digest does not match).
  virtual Status Put(const BlockHeader& header, Bytes bytes) = 0;
  /// All acknowledged puts before it are on disk when it returns ok.
  virtual Status Flush() = 0;
  virtual std::vector<BlockStoreEvent> DrainEvents() = 0;
  virtual std::vector<BlockKey> Keys() const = 0;
  virtual BlockStoreStats stats() const = 0;
};

struct BlockStoreConfig {
  std::string path;                          // folder of the RocksDB tier; empty: memory only
  uint64_t memory_bytes = 256ull << 20;      // of the memory tier
  uint64_t disk_bytes = 8ull << 30;          // quota of the disk tier
  uint64_t block_bytes = 0;                  // of one block, all must be equal; 0 = any
  std::string identity;                      // model fingerprint, layout, numerics: a folder of another identity is refused by
                                             // kInvalid that names both and says what to do; empty = take what is there
  std::string compression = "none";          // none, zstd, lz4
  std::string policy = "lru";                // lru, s3fifo, cost
  double ttl_s = 0;                          // 0 = for ever
  bool read_only = false;
};
/// Opens (and creates) a store. Errors: kInvalid, kExhausted (disk full), kUnavailable (locked by another process, says which file).
Result<std::unique_ptr<BlockStore>> OpenBlockStore(const BlockStoreConfig& config);

}  // namespace baton
