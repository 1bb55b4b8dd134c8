// The cache of a simulated worker or store: which blocks it holds, least recently used out first and, within a prompt, its end
// before its beginning. Blocks that running requests use are pinned and stay.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/block_key.h"
#include "protocol/member.h"

namespace baton {

/// Thread: one.
class SimCache {
 public:
  explicit SimCache(size_t capacity_blocks) : capacity_(capacity_blocks) {}
  /// Length of the longest prefix of `chain` that is held.
  size_t Match(std::span<const BlockKey> chain) const;
  /// How many of the chain's blocks nobody has pinned: what pinning it takes from the evictable.
  size_t Unpinned(std::span<const BlockKey> chain) const;
  /// Each block is held and stays until as many Unpin as Pin. Pins may exceed the capacity.
  void Pin(std::span<const BlockKey> chain);
  void Unpin(std::span<const BlockKey> chain);
  /// Held (as far as there is room) and just used.
  void Insert(std::span<const BlockKey> chain);
  /// Evicts what no longer fits.
  void SetCapacity(size_t blocks);
  void Clear();
  size_t size() const { return blocks_.size(); }
  size_t pinned() const { return blocks_.size() - recency_.size(); }
  /// What came and went since the last call, each key once.
  std::vector<HeldChange> DrainChanges();

 private:
  struct Block {
    std::list<BlockKey>::iterator place;  // in recency_ while pins == 0
    uint32_t pins = 0;
  };
  void Evict();

  size_t capacity_;
  std::list<BlockKey> recency_;  // of what is not pinned, most recent first
  std::unordered_map<BlockKey, Block> blocks_;
  std::unordered_set<BlockKey> changed_;
};

}  // namespace baton
