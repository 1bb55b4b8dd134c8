// The folder of the disk tier: FORMAT (text: version and identity), LOCK, index/ (RocksDB) and extents/ (the blocks'
// records). It knows places and bytes, no policy. What was freed is written over only after the index has durably
// forgotten it, so a row never leads to another block's record. A damaged index is rebuilt from the records.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "kvstore/block_record.h"
#include "kvstore/extent_space.h"
#include "kvstore/file_layer.h"
#include "kvstore/memory_block.h"
#include "kvstore/store_index.h"

namespace baton {

struct DiskFolderOptions {
  std::string path, identity;
  uint64_t disk_bytes = 0;
  bool read_only = false;
  const KeyRing* keys = nullptr;  // outlives the folder; null or empty: nothing is sealed
};

/// Thread: Read from any; everything else from one at a time.
class DiskFolder {
 public:
  static constexpr uint32_t kExtentPages = 1u << 18;  // a file of 1 GiB
  static constexpr uint64_t kMaxBlockBytes = (uint64_t{kExtentPages} - kMaxHeaderPages) * kPageBytes;

  /// Errors: kInvalid (another identity, not a store's folder), kUnavailable (locked), kExhausted, kDataLoss (read-only and
  /// the index is damaged).
  static Result<std::unique_ptr<DiskFolder>> Open(const DiskFolderOptions& options, FileLayer& files);
  ~DiskFolder();

  const std::string& identity() const { return identity_; }
  /// Bytes for records under a quota: less the index's share.
  static uint64_t CapacityBytes(uint64_t disk_bytes);
  uint64_t capacity_bytes() const { return capacity_bytes_; }
  /// Gives every block that is here, oldest first, once; call first. `corrupt` counts what had to be dropped.
  /// Blocks sealed with keys that were deleted go; kInvalid when there are such and no keys at all were given.
  Status Load(const std::function<void(const IndexRow&)>& visit, uint64_t& corrupt);

  /// Reads and verifies a block into `out` (of the block's size). kDataLoss when anything disagrees; kUnavailable on I/O
  /// errors; kNotFound when it is sealed with a key that is not at hand. `header` may be null.
  Status Read(const BlockKey& key, const DiskPlace& place, MutableBytes out, BlockHeader* header);

  /// Pages that could be allocated now, and after the next durable commit.
  uint32_t free_pages() const { return space_.free_pages(); }
  uint32_t freed_pages() const { return freed_pages_; }
  std::optional<uint32_t> Allocate(uint32_t pages) { return space_.Allocate(pages); }
  /// Gives back what was allocated and never committed.
  void Unallocate(uint32_t page, uint32_t pages) { space_.Free(page, pages); }
  /// Writes a record to the pages allocated from `page` on; its row, for the next commit.
  Result<IndexRow> Write(RecordHeader& header, Bytes payload, uint32_t page, const SealKey* key);
  /// Makes a block gone with the next commit; `wipe` also clears its header on the medium.
  void Forget(const BlockKey& key, const DiskPlace& place, bool wipe);
  /// Makes a record that does not verify gone with the next commit: what can be read of it is copied to quarantine/, and its
  /// pages are not written again before the next start, as far as a sixteenth of the room may be spared for that.
  void Quarantine(const BlockKey& key, const DiskPlace& place);
  /// Publishes rows and what was forgotten. With `sync` all records and rows so far are on the medium. On an error nothing
  /// is published and the rows' pages are given back.
  Status Commit(std::span<const IndexRow> rows, bool sync);
  bool has_unsynced() const { return unsynced_; }
  uint64_t batch() const { return batch_; }

  /// Compacts the index, gives free pages back to the file system; how many bytes.
  Result<uint64_t> Shrink();

 private:
  DiskFolder(DiskFolderOptions options, FileLayer& files);
  Status OpenLocked();
  Status CheckFree(uint64_t bytes) const;  // kExhausted where the file system has less
  Status CheckFormat();
  Status OpenIndex();
  Status Rebuild();
  void ScanExtent(uint32_t file, std::vector<IndexRow>& rows);
  static uint64_t OffsetOf(uint32_t page) { return uint64_t{page % kExtentPages} * kPageBytes; }
  Status DropLocked(std::vector<IndexRow>& rows);
  Status DropAbove();
  void CopyAside(const BlockKey& key, const DiskPlace& place);
  Status SyncAll();
  Status TakeBack(std::span<const IndexRow> rows, Status why);
  void Wipe();
  Result<uint64_t> AllocatedBytes() const;  // of the extent files, on the file system

  const DiskFolderOptions options_;
  FileLayer& files_;
  std::string identity_;
  uint64_t capacity_bytes_ = 0;
  int lock_fd_ = -1;
  std::unique_ptr<StoreIndex> index_;
  std::vector<std::unique_ptr<File>> extents_;  // all opened at start
  std::vector<bool> extent_dirty_;
  ExtentSpace space_;
  struct Freed {
    uint32_t page, pages;
  };
  std::vector<Freed> freed_;  // forgotten; free after the next durable commit
  uint32_t freed_pages_ = 0;
  uint32_t retired_pages_ = 0;     // quarantined
  std::vector<BlockKey> deletes_;  // for the next commit
  std::vector<uint32_t> wipes_;    // pages of records that the next commit makes unreadable
  bool unsynced_ = false, clean_ = false, rebuilt_ = false;
  uint64_t batch_ = 1, synced_batch_ = 0;
};

}  // namespace baton
