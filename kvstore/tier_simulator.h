// A tier on paper: replays requests against a policy exactly as the live store would take them, block for block, and tells
// what a policy that knew the future could have reached. For choosing policies and sizes without running a cluster.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "kvstore/tier_ledger.h"

namespace baton {

/// Blocks by name; each request is a chain: every block's predecessor is its parent.
using BlockTrace = std::vector<std::vector<uint64_t>>;

/// Thread: one at a time.
class TierSimulator {
 public:
  /// Holds at most `capacity` blocks of equal size.
  TierSimulator(std::unique_ptr<CachePolicy> policy, size_t capacity) : tier_(std::move(policy)), capacity_(capacity) {}
  /// Reads the longest prefix that is held and puts the rest, first block first; how long that prefix was.
  size_t Replay(std::span<const uint64_t> request);

  size_t hits() const { return hits_; }
  size_t accesses() const { return accesses_; }
  double hit_ratio() const { return accesses_ == 0 ? 0 : static_cast<double>(hits_) / static_cast<double>(accesses_); }

 private:
  bool MakeRoom(uint32_t parent);

  TierLedger tier_;
  const size_t capacity_;
  std::unordered_map<uint64_t, uint32_t> ids_;
  size_t hits_ = 0, accesses_ = 0;
};

/// The share of accesses that the best choice in hindsight would have found: Belady's rule, keeping what is used next soonest
/// and not taking in what is used later than all that is held. A parent is always used before its child, so that keeps
/// chains whole by itself.
double OfflineHitRatio(const BlockTrace& trace, size_t capacity);

}  // namespace baton
