// Candidates for eviction by a rank: the lowest goes first, the lower id among equals.
#pragma once

#include <cstdint>
#include <set>
#include <utility>

namespace baton {

/// Thread: one at a time.
class RankedSet {
 public:
  /// Puts `id` in with this rank, or takes it out that went in with it.
  void Set(uint32_t id, int64_t rank, bool in) {
    if (in) {
      set_.insert({rank, id});
    } else {
      set_.erase({rank, id});
    }
  }
  bool empty() const { return set_.empty(); }
  uint32_t front() const { return set_.begin()->second; }
  int64_t lowest() const { return set_.begin()->first; }

 private:
  std::set<std::pair<int64_t, uint32_t>> set_;
};

}  // namespace baton
