// What came and went, for the coordinator's index, in order and bounded even when nobody drains.
#pragma once

#include <cstddef>
#include <vector>

#include "base/block_key.h"

namespace baton {

/// A change of what a pool or store holds.
struct BlockEvent {
  bool added = false;  // false: evicted, removed or expired
  BlockKey key;
};

/// Thread: one at a time.
class BlockEvents {
 public:
  /// Once more than `bound` events wait, each key keeps its net change only: at most one event.
  void Record(bool added, const BlockKey& key, size_t bound);
  std::vector<BlockEvent> Drain();

 private:
  void Compact();

  std::vector<BlockEvent> events_;
};

}  // namespace baton
