// All blocks of the store by key, 100 bytes each: a table of small numbers over an array of entries, so that ten million
// keys fit in little more than a gigabyte. Parents are entries too, held or not, so a chain is linked by number.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/block_key.h"
#include "kvstore/cache_policy.h"

namespace baton {

struct MemoryBlock;

/// Where a block's record stands in the extents.
struct DiskPlace {
  uint32_t page = 0;          // first 4 KiB page, counted over all extent files
  uint32_t stored_bytes = 0;  // of the payload as stored; 0 = not on disk
  uint16_t header_pages = 0;  // pages before the payload
  uint8_t codec = 0;

  bool on_disk() const { return stored_bytes != 0; }
  uint32_t pages() const { return header_pages + static_cast<uint32_t>(CeilDiv(stored_bytes, 4096)); }
  friend bool operator==(const DiskPlace&, const DiskPlace&) = default;
};

struct IndexEntry {
  BlockKey key;
  uint32_t parent = kNoBlock;  // id
  uint32_t links = 0;          // entries that name this one as parent
  uint32_t raw_bytes = 0;      // of the block
  uint32_t tokens = 0, depth = 0;
  uint32_t stored_at_s = 0;  // since 1970
  DiskPlace disk;
  bool dirty = false;   // waits for the disk
  bool pinned = false;
  uint16_t key_slot = 0;  // of the key it is sealed with on disk (kvstore/key_ring.h), also of a chain's root; 0 = not sealed
  uint64_t ticket = 0;  // of the put that brought it; 0 = found on disk at start
  std::shared_ptr<const MemoryBlock> memory;

  bool held() const { return memory != nullptr || disk.on_disk(); }
  bool used() const { return held() || dirty || links > 0; }
};

/// Ids stay until Release. Thread: one at a time.
class BlockIndex {
 public:
  BlockIndex();
  /// The entry's id, or kNoBlock.
  uint32_t Find(const BlockKey& key) const;
  /// Brings into the cache what Find of this key looks at first, and then, once that is there, what it looks at next. A chain
  /// of keys is looked up several times as fast with these a few keys ahead.
  void PrefetchSlot(const BlockKey& key) const { __builtin_prefetch(&table_[key.Prefix64() & (table_.size() - 1)]); }
  void PrefetchEntry(const BlockKey& key) const {
    const uint32_t id = table_[key.Prefix64() & (table_.size() - 1)];
    if (id == kNoBlock) return;
    __builtin_prefetch(&entries_[id]);
    __builtin_prefetch(reinterpret_cast<const char*>(&entries_[id] + 1) - 1);  // an entry is longer than a line
  }
  /// The entry's id; a new empty one where there is none.
  uint32_t Intern(const BlockKey& key);
  /// Sets an entry's depth and parent. False, and nothing changes, when that contradicts what is linked already: every
  /// child is one deeper than its parent, so no circle can close. Release an entry that was interned for it.
  [[nodiscard]] bool Link(uint32_t id, const BlockKey& parent, uint32_t depth);
  /// Frees the entry if it is neither held nor anybody's parent, and then its parent likewise.
  void Release(uint32_t id);

  IndexEntry& operator[](uint32_t id) { return entries_[id]; }
  const IndexEntry& operator[](uint32_t id) const { return entries_[id]; }
  /// Ids are below this; some are free (no key, not used()).
  uint32_t bound() const { return static_cast<uint32_t>(entries_.size()); }
  size_t size() const { return size_; }

 private:
  size_t Slot(const BlockKey& key) const;  // where it is or would go
  void EraseSlot(size_t slot);
  void Grow();

  std::deque<IndexEntry> entries_;  // chunks: growing copies nothing
  std::vector<uint32_t> free_;
  std::vector<uint32_t> table_;  // ids, linear probing, a power of two
  size_t size_ = 0;
};

}  // namespace baton
