// "What if": a trace through the real coordinator (index, router, admission, membership), workers that run the real scheduler, and a
// store that keeps the real one's books under its real policy, on virtual time.
// The same configuration, trace and seed always give the same numbers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "app/sim/failure.h"
#include "app/sim/report.h"
#include "app/sim/store.h"
#include "app/sim/worker.h"
#include "app/trace.h"
#include "coordinator/coordinator.h"

namespace baton {

struct SimConfig {
  uint32_t prefill_workers = 1, decode_workers = 1, mixed_workers = 0;
  SimWorkerConfig worker;
  uint32_t block_tokens = kTraceBlockTokens;  // of a block, and of a hash id of the trace
  uint32_t store_blocks = 50'000;      // on disk; 0: no store
  uint32_t store_memory_blocks = 5'000;  // of these, in memory too
  std::string store_policy = "lru";
  double kv_bytes_per_token = 23'040;
  double transfer_bytes_per_s = 2e9, transfer_latency_s = 5e-4, store_bytes_per_s = 1e9, store_disk_bytes_per_s = 5e8;
  double heartbeat_s = 0.2;
  double slo_ttft_s = 2, slo_itl_s = 0.1;  // what counts as good
  double rate_scale = 1;                   // arrivals come so many times as fast
  bool spread = true;                      // traces bunch their times: spread equal ones over the gap to the next
  uint64_t seed = 1;
  std::vector<SimFailure> failures;
  CoordinatorConfig coordinator;
};

/// Errors: kInvalid (no workers, an unknown worker in a failure, a value that cannot be, a trace longer than three weeks);
/// kExhausted (requests still open after so long).
Result<SimReport> Simulate(const SimConfig& config, const std::vector<TraceRequest>& trace);

}  // namespace baton
