// "What if": a trace through the real coordinator (index, router, admission, membership) and simulated workers, on virtual time.
// The same configuration, trace and seed always give the same numbers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "app/sim/histogram.h"
#include "app/sim/worker.h"
#include "app/trace.h"
#include "coordinator/coordinator.h"

namespace baton {

/// A worker that dies at `at_s` and is back, empty, `down_s` later.
struct SimFailure {
  std::string worker;  // "prefill0", "decode1", "mixed0", "store0"
  double at_s = 0, down_s = 30;
};

struct SimConfig {
  uint32_t prefill_workers = 1, decode_workers = 1, mixed_workers = 0;
  SimWorkerConfig worker;
  uint32_t store_blocks = 50'000;  // 0: no store
  double kv_bytes_per_token = 23'040;
  double transfer_bytes_per_s = 2e9, transfer_latency_s = 5e-4, store_bytes_per_s = 1e9;
  double heartbeat_s = 0.2;
  double slo_ttft_s = 2, slo_itl_s = 0.1;  // what counts as good
  double rate_scale = 1;                   // arrivals come so many times as fast
  bool spread = true;                      // traces bunch their times: spread equal ones over the gap to the next
  uint64_t seed = 1;
  std::vector<SimFailure> failures;
  CoordinatorConfig coordinator;
};

struct SimReport {
  uint64_t requests = 0, completed = 0, refused = 0, invalid = 0, moved = 0, good = 0;
  double seconds = 0;  // virtual, first arrival to last end
  uint64_t prompt_tokens = 0, cached_tokens = 0, answer_tokens = 0, local_prefills = 0, routed = 0;
  SimHistogram ttft_s, itl_s, request_s, prediction_error;
  double busy_share = 0;  // of the engines' time

  double hit_ratio() const { return prompt_tokens == 0 ? 0 : static_cast<double>(cached_tokens) / static_cast<double>(prompt_tokens); }
  double goodput_per_s() const { return seconds > 0 ? static_cast<double>(good) / seconds : 0; }
  /// One JSON object.
  std::string Json() const;
};

/// Errors: kInvalid (no workers, an unknown worker in a failure, a value that cannot be).
Result<SimReport> Simulate(const SimConfig& config, const std::vector<TraceRequest>& trace);

}  // namespace baton
