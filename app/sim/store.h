// The store of a simulation: the books of the real one (BlockIndex, TierLedger, CachePolicy) without bytes, files or threads, so it
// keeps and gives up the very blocks that LocalStore does. What the live writer does behind a put is done at once here.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_set>
#include <vector>

#include "base/block_key.h"
#include "base/status.h"
#include "kvstore/block_index.h"
#include "kvstore/tier_ledger.h"
#include "protocol/member.h"

namespace baton {

enum class SimTier : uint8_t { kNone, kMemory, kDisk };

/// Thread: one. Sizes are in blocks.
class SimStore {
 public:
  /// `disk_blocks` 0: memory only. Errors: kInvalid (an unknown policy).
  static Result<std::unique_ptr<SimStore>> Create(uint64_t memory_blocks, uint64_t disk_blocks, std::string_view policy);

  /// Length of the longest prefix of `chain` that is held; counts as no use.
  size_t Lookup(std::span<const BlockKey> chain) const;
  /// A block is read; from where. Out of disk it comes into memory too.
  SimTier Read(const BlockKey& key);
  /// A chain's blocks [from, size) are put in order; one that is held is used. False where one found no room.
  bool Put(std::span<const BlockKey> chain, size_t from);
  /// Of a process that was killed: memory is empty, disk is not. Every block held is told as a change.
  void Restart();
  uint64_t memory_blocks() const { return memory_.blocks(); }
  uint64_t disk_blocks() const { return disk_.blocks(); }
  uint64_t evictions() const { return evictions_; }
  /// What came and went since the last call, each key once.
  std::vector<HeldChange> DrainChanges();

  SimStore(uint64_t memory_blocks, uint64_t disk_blocks, std::string_view policy);  // of a known policy

 private:
  struct Entry {
    bool in_memory = false, on_disk = false;
  };
  bool Held(uint32_t id) const { return id < entries_.size() && (entries_[id].in_memory || entries_[id].on_disk); }
  uint32_t FindHeld(const BlockKey& key) const;
  bool MakeRoom(TierLedger& tier, uint64_t capacity, uint32_t parent);
  void Drop(uint32_t id, bool from_memory, bool evicted);
  void Mark(uint32_t id);
  bool PutOne(const BlockKey& key, const BlockKey& parent, uint32_t depth);

  const uint64_t memory_capacity_, disk_capacity_;
  BlockIndex index_;
  std::vector<Entry> entries_;  // by the index's ids
  TierLedger memory_, disk_;
  uint64_t evictions_ = 0;
  std::unordered_set<BlockKey> changed_;
};

}  // namespace baton
