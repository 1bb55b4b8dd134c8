// The durable index of the disk tier: RocksDB rows of about 100 bytes a block, "b" + key → where its record stands. The
// blocks themselves are in the extent files (disk_folder.h): BlobDB would write each byte twice, first to its log.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/block_key.h"
#include "base/status.h"
#include "kvstore/block_index.h"

namespace rocksdb {
class DB;
}

namespace baton {

struct IndexRow {
  BlockKey key, parent;
  DiskPlace place;
  uint32_t raw_bytes = 0, tokens = 0, depth = 0, stored_at_s = 0;
  uint64_t batch = 0;
  uint64_t key_id = 0;  // of the key it is sealed with; 0 = not sealed
};

/// Thread: one at a time.
class StoreIndex {
 public:
  /// Errors: kDataLoss when it is damaged (the caller rebuilds it), kExhausted, kUnavailable, kNotFound (read-only, absent).
  static Result<std::unique_ptr<StoreIndex>> Open(const std::string& path, bool read_only);
  ~StoreIndex();

  /// Every row, in no useful order. kDataLoss when the index is damaged.
  Status ForEach(const std::function<void(const IndexRow&)>& visit);
  /// Rows come and go as one; a written row survives the process's death, after Sync the machine's. `synced_batch` notes that
  /// the records up to that batch are on the medium.
  Status Commit(std::span<const IndexRow> puts, std::span<const BlockKey> deletes, std::optional<uint64_t> synced_batch);
  Status Sync();
  /// The batch up to which records are known to be on the medium.
  Result<uint64_t> SyncedBatch();
  /// Whether the last owner closed the folder in order; opening for writing takes the mark away.
  Result<bool> TakeCleanMark();
  Status SetCleanMark();
  Status Compact();

 private:
  explicit StoreIndex(std::unique_ptr<rocksdb::DB> db);
  std::unique_ptr<rocksdb::DB> db_;
};

}  // namespace baton
