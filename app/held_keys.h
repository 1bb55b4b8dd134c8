// What a rank holds, told by its pool and its store: one holder to the coordinator, whichever of the two has a block.
//
// Thread: the loop's.
#pragma once

#include <span>
#include <unordered_map>
#include <vector>

#include "protocol/member.h"

namespace baton {

class HeldKeys {
 public:
  enum Source : uint8_t { kPool = 1, kStore = 2 };

  /// Forgets everything: a snapshot follows.
  void Clear() { sources_.clear(); }
  /// Takes changes of one source, in order, and adds to `out` those that change what the rank holds. What is said twice counts once.
  void Take(Source source, std::span<const HeldChange> changes, std::vector<HeldChange>& out) {
    for (const HeldChange& change : changes) {
      uint8_t& held = sources_[change.key];
      const uint8_t before = held;
      held = static_cast<uint8_t>(change.added ? held | source : held & ~source);
      const uint8_t after = held;
      if (after == 0) sources_.erase(change.key);
      if ((before == 0) != (after == 0)) out.push_back(change);
    }
  }
  size_t size() const { return sources_.size(); }

 private:
  std::unordered_map<BlockKey, uint8_t> sources_;
};

}  // namespace baton
