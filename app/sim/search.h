// The cheapest split of workers that meets an SLO, found by simulating them in the order of their price.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "app/sim/simulator.h"

namespace baton {

struct SimSearchGoal {
  double share = 0.99;  // of the requests must be good (SimConfig's SLO)
  uint32_t max_workers = 16;
  double prefill_price = 1, decode_price = 1, mixed_price = 1;  // of a worker of each role
};
struct SimSearchRow {
  uint32_t prefill = 0, decode = 0, mixed = 0;
  double price = 0, good_share = 0, ttft_p99_s = 0, itl_p99_s = 0, busy_share = 0;
  bool meets = false;
};
struct SimSearchResult {
  std::vector<SimSearchRow> tried;  // the last one meets the goal, if any does
  uint64_t skipped = 0;             // cheaper splits whose engines could not do the work if they were always busy
  bool found() const { return !tried.empty() && tried.back().meets; }
  /// A JSON object a row, then one of the whole.
  std::string Json() const;
};

/// Errors: as Simulate's; kInvalid for a goal that cannot be.
Result<SimSearchResult> SearchSplit(const SimConfig& config, const std::vector<TraceRequest>& trace, const SimSearchGoal& goal);

}  // namespace baton
