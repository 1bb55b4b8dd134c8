// Carries out a warming plan: asks the store what it holds, has the rest computed by the cluster's workers, a bounded number
// at a time, and counts a block only when the store says that it holds it.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <set>
#include <vector>

#include "app/warm_plan.h"
#include "base/clock.h"
#include "gateway/backend.h"
#include "protocol/loop.h"

namespace baton {

/// The cluster's stores as the job sees them; a prefix lives in the store that its first block names. Thread: the loop's.
class WarmStore {
 public:
  virtual ~WarmStore() = default;
  /// How many leading ones of `keys` are held, keys that follow one another in the prefix that begins with `first`.
  virtual kj::Promise<Result<size_t>> Held(BlockKey first, std::vector<BlockKey> keys) = 0;
  /// Resolves when all that the stores took is on disk.
  virtual kj::Promise<Status> Flush() = 0;
};

struct WarmLimits {
  uint32_t requests = 8;            // under way at once
  uint32_t unwritten_blocks = 256;  // begun and not yet seen in the store: workers drop what their write queue cannot hold
  double tokens_per_s = 0;          // computed at most; 0 = no limit
  double write_timeout_s = 60;      // from a step's computation until the store holds it
  double refused_timeout_s = 120;   // how long the coordinator may refuse a step for want of room
  uint64_t max_blocks = UINT64_MAX; // of the plan in the store, held ones included: more would only evict each other
};

struct WarmProgress {
  uint64_t blocks = 0;    // written by this job
  uint64_t skipped = 0;   // held before
  uint64_t failed = 0;    // could not be computed, or follow one that could not
  uint64_t left_out = 0;  // beyond max_blocks
  uint64_t to_do = 0;     // blocks of the plan that were neither held nor left out
  bool complete = false;  // nothing is left to do
};

/// Thread: the loop's. What is passed by reference outlives it; destroying it cancels what is under way.
class WarmDriver {
 public:
  WarmDriver(WarmPlan& plan, const WarmLimits& limits, WarmProgress& progress, Backend& backend, WarmStore& store, kj::Timer& timer, const Clock& clock);
  /// Call once. Ok when every step has ended and the store is flushed, also when blocks failed (counted, and logged why). Errors:
  /// kUnavailable (no worker, no store, the store takes no blocks), the store's of Flush: what is done stays done.
  kj::Promise<Status> Run();

 private:
  kj::Promise<Status> FindHeld();
  void Begin();
  void StartSteps();
  kj::Promise<void> RunStep(uint32_t step);
  kj::Promise<Status> Compute(uint32_t step, Instant give_up);
  kj::Promise<Status> Written(uint32_t step, Instant give_up);
  void EndStep(uint32_t step, const Status& status);
  void Fail(uint32_t step);
  bool RateAllows();

  WarmPlan& plan_;
  const WarmLimits limits_;
  WarmProgress& progress_;
  Backend& backend_;
  WarmStore& store_;
  kj::Timer& timer_;
  const Clock& clock_;
  std::vector<uint32_t> ends_;
  size_t next_end_ = 0;
  std::vector<WarmStep> steps_;
  std::vector<std::vector<uint32_t>> followers_;  // of each step
  std::set<uint32_t> ready_;
  uint32_t running_ = 0;
  uint64_t unwritten_ = 0, request_ids_ = 0;
  Instant next_start_{};
  bool waits_for_rate_ = false;
  Status stopped_;
  kj::Own<kj::PromiseFulfiller<void>> done_;
  Background tasks_{"warming"};
};

}  // namespace baton
