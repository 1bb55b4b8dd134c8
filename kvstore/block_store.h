// The store of prefixes: full blocks by key, in memory over disk. A miss is not an error, and whatever does not verify is
// a miss. The digest is made by the worker that computed the block and travels with it to the worker that uses it; the
// store checks it when it takes a block and again whenever it gives one out, from memory and from disk alike.
// docs/block_format.md shows the block and the folder.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/block_key.h"
#include "base/bytes.h"
#include "base/cache_record.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/status.h"
#include "kvstore/block_events.h"

namespace baton {

class FileLayer;

struct BlockHeader {
  BlockKey key, parent;
  Digest128 digest;                // XXH3-128 of the block's bytes as in the pool
  uint32_t tokens = 0;             // in this block; fewer than the block holds only at the end of an imported cache
  uint32_t depth = 0;              // position in its chain, 0 = first block
  std::vector<TokenId> token_ids;  // of this block; lets `store export` name what it holds
  std::string extra;               // carried unread, for example the rope_delta of a prefix with images
  std::string tenant;              // on a chain's first block when it is put: whose the chain is; kept by root, not in the record

  static constexpr size_t kMaxTokenIds = 4096, kMaxExtraBytes = 64 << 10;
  friend bool operator==(const BlockHeader&, const BlockHeader&) = default;
};
struct StoredBlock {
  BlockHeader header;
  std::vector<std::byte> bytes;
  bool from_disk = false;
};
/// A block without a copy: `bytes` stay as they are while `owner` lives, even if the store drops the block meanwhile.
struct BlockView {
  BlockHeader header;
  Bytes bytes;
  bool from_disk = false;
  std::shared_ptr<const void> owner;
};

struct BlockStoreStats {
  uint64_t blocks_memory = 0, bytes_memory = 0, blocks_disk = 0, bytes_disk = 0;  // bytes_disk: space taken, not payload
  uint64_t hits_memory = 0, hits_disk = 0, misses = 0, puts = 0, duplicates = 0;
  uint64_t corrupt = 0;      // blocks that did not verify; each was dropped
  uint64_t quarantined = 0;  // of those, the ones on disk: moved aside, never served again
  uint64_t scrubbed = 0;     // blocks on disk that Scrub read
  uint64_t evictions = 0;    // blocks the store holds no more because room was needed
  uint64_t expired = 0;      // blocks dropped for their age
  uint64_t dropped = 0;      // puts that never reached the disk (full, quota, I/O error)
  uint64_t blocks_dirty = 0; // taken, not yet on disk
  uint64_t pinned = 0;
  double evicted_age_s = 0;  // seconds since its put of the block evicted last
};
using BlockStoreEvent = BlockEvent;

/// What a put waits for.
enum class Durability : uint8_t {
  kMemory,   // taken; written behind at once, but a crash before that loses it
  kWritten,  // survives the process's death (kill -9)
  kSynced,   // survives the machine's power loss
};

/// What one tenant's blocks take, in memory and on disk once each.
struct TenantUse {
  uint64_t blocks = 0, bytes = 0;
};

/// A row of `baton store ls`.
struct BlockListing {
  BlockKey key, parent;
  uint32_t tokens = 0, depth = 0;
  uint64_t bytes = 0;       // of the block
  uint64_t disk_bytes = 0;  // space on disk; 0 = not there
  bool in_memory = false;
  double stored_at_s = 0;  // seconds since 1970
};
struct ScrubReport {
  uint64_t checked = 0, bytes = 0, corrupt = 0;
  uint64_t locked = 0;  // sealed with keys that are not at hand: neither good nor bad
  std::vector<BlockKey> corrupt_keys;
};
struct GcReport {
  uint64_t expired = 0, freed_bytes = 0;  // given back to the file system
};

/// Thread: any. Calls other than Flush, Scrub, Gc and puts that wait take one short lock; disk reads run outside it.
class BlockStore {
 public:
  virtual ~BlockStore() = default;
  /// Length of the longest prefix of `chain` that is held (no bytes are read; a block may still turn out bad on Read).
  /// Counts as no use: probes never keep a block alive.
  virtual size_t Lookup(std::span<const BlockKey> chain) = 0;
  /// The block, verified; kNotFound on a miss (also when what is there does not verify: counted, dropped).
  virtual Result<StoredBlock> Read(const BlockKey& key) = 0;
  /// The same into the caller's memory with one copy and no allocation of the block's size; `out` must have exactly the
  /// block's size (kInvalid otherwise). On any error the content of `out` is unspecified. `header` may be null.
  virtual Status ReadInto(const BlockKey& key, MutableBytes out, BlockHeader* header) = 0;
  /// The same without a copy where the block is in memory.
  virtual Result<BlockView> View(const BlockKey& key) = 0;

  /// Takes a block; ok when it is as durable as asked. A key already held is ok and counted. Errors: kExhausted (quota or
  /// full disk, nothing evictable; the store goes on serving), kInvalid (size differs from the store's block size, digest
  /// does not match), kUnavailable (I/O error), kDeadline (the disk did not keep up in time).
  virtual Status Put(const BlockHeader& header, Bytes bytes, Durability durability) = 0;
  Status Put(const BlockHeader& header, Bytes bytes) { return Put(header, bytes, Durability::kMemory); }
  /// Everything taken before it is synced to disk when it returns ok; blocks evicted for room meanwhile are no error. Else
  /// the first error since the last Flush. Without a disk tier: ok, there is nothing to wait for.
  virtual Status Flush() = 0;

  /// Keeps the keys held now from eviction, and from ending by age, until `deadline`; a later deadline replaces an earlier one. Gives how many of
  /// them are held (the leading ones of a chain when `keys` is one); kExhausted when pins would exceed half a tier: those
  /// before stay pinned.
  virtual Result<size_t> Pin(std::span<const BlockKey> keys, Instant deadline) = 0;
  virtual void Unpin(std::span<const BlockKey> keys) = 0;
  /// Most bytes that may be pinned at a time.
  virtual uint64_t max_pinned_bytes() const = 0;
  /// What of `keys`, a chain, is held now and where. Counts as no use.
  virtual HeldBlocks Describe(std::span<const BlockKey> keys) = 0;
  /// A block's header; counts as no use. kNotFound, and what Read gives for one that does not verify.
  virtual Result<BlockHeader> Peek(const BlockKey& key) = 0;
  /// When the block was given up last, in seconds since 1970, if that is remembered and it has not come again.
  virtual std::optional<double> EvictedAt(const BlockKey& key) const = 0;
  /// By tenant; "" are chains of no named tenant. Empty where quotas are off (BlockStoreConfig::tenant_bytes).
  virtual std::map<std::string, TenantUse> tenants() const = 0;
  /// Forgets a block, in both tiers and for good; pinned or not. kNotFound when it is not held.
  virtual Status Remove(const BlockKey& key) = 0;

  /// Changes since the last call, in order; nets out what came and went if nobody drains for long.
  virtual std::vector<BlockStoreEvent> DrainEvents() = 0;
  virtual std::vector<BlockKey> Keys() const = 0;
  virtual std::vector<BlockListing> List() const = 0;
  virtual BlockStoreStats stats() const = 0;
  /// The identity the folder is bound to.
  virtual std::string identity() const = 0;

  /// Reads every block on disk and quarantines those that do not verify; at most `bytes_per_s` (0 = no limit). Stops early, with
  /// what it has, when `stop` gives true (asked between blocks; may be empty).
  virtual Result<ScrubReport> Scrub(uint64_t bytes_per_s, const std::function<bool()>& stop) = 0;
  /// Drops what is too old, compacts the index and gives free space back to the file system.
  virtual Result<GcReport> Gc() = 0;
};

struct BlockStoreConfig {
  std::string path;                          // folder of the disk tier; empty: memory only
  uint64_t memory_bytes = 256ull << 20;      // of the memory tier; a block that does not fit goes straight to disk
  uint64_t disk_bytes = 8ull << 30;          // quota of the disk tier, index included
  uint64_t block_bytes = 0;                  // of one block, all must be equal; 0 = any
  std::string identity;                      // model fingerprint, layout, numerics: a folder of another identity is refused by
                                             // kInvalid that names both and says what to do; empty = take what is there
  std::string compression = "none";          // none, zstd, lz4, planes
  std::string key_file;                      // seals blocks on disk with the keys in it (kvstore/key_ring.h); empty = not sealed
  std::string policy = "cost";               // lru, s3fifo, cost
  double ttl_s = 0;                          // 0 = for ever
  uint64_t scrub_bytes_per_s = 0;            // a thread reads and checks what is on disk at this rate, pass after pass; 0 = none
  double scrub_pause_s = 3600;               // between two passes
  uint64_t tenant_bytes = 0;                 // of one tenant's blocks: above it, its own make room; 0 = no quota
  double wait_s = 30;                        // how long a put or Flush may wait for the disk
  double sync_interval_s = 1;                // what was written is synced at latest after this time: the power-loss window
  bool read_only = false;                    // for a look at a folder, even while another process serves it; puts are refused
};
/// What a store stands on; null means the real one. All must outlive the store.
struct BlockStoreDeps {
  const Clock* clock = nullptr;
  FileLayer* files = nullptr;
};
/// Opens (and creates) a store. Errors: kInvalid, kExhausted (disk full), kUnavailable (locked by another process, says which file).
Result<std::unique_ptr<BlockStore>> OpenBlockStore(const BlockStoreConfig& config);
Result<std::unique_ptr<BlockStore>> OpenBlockStore(const BlockStoreConfig& config, const BlockStoreDeps& deps);

}  // namespace baton
