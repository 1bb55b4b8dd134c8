// Where a request goes: a pure function of what the workers last said. Every term is in seconds, so it can be printed, added
// and checked against what happened. A candidate is a decode worker with a prefill worker, or alone ("local": it computes the
// prompt itself); conditional disaggregation is nothing but the comparison of the two.
//
//   queue_s         prompt tokens that wait before this one, over the measured prefill rate
//   store_load_s    bytes of the stored prefix that the computing worker lacks, over its measured rate of reading the store
//   prefill_s       tokens in no cache, over the measured prefill rate
//   transfer_s      latency, and what the hand-off's bytes take longer than the computation that hides them
//   interference_s  each stream that decodes on the computing worker stalls for prefill_s; none on a worker that only prefills
//   work_s          a share of prefill_s: computing what somebody else has, or is about to have, delays those who come later
//   decode_s        waiting for a place and for blocks, and what one more stream costs the batch while the answer is written
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "base/step_model.h"

namespace baton {

enum class RoutePolicy : uint8_t { kCost, kRoundRobin, kLeastLoaded, kPrefixOnly };
/// The policy of that name ("cost", "round_robin", "least_loaded", "prefix_only"); kInvalid names them.
Result<RoutePolicy> ParseRoutePolicy(std::string_view name);
std::string_view RoutePolicyName(RoutePolicy policy);

struct RouterConfig {
  RoutePolicy policy = RoutePolicy::kCost;
  uint32_t prefill_chunk_tokens = 256;    // of an engine's step: each chunk costs a step's base
  uint32_t local_prefill_tokens = 64;     // fewer uncached tokens always prefill on the decode worker
  uint32_t expected_answer_tokens = 256;  // answers rarely use all of max_tokens: what decode_s counts at most
  double decode_knee_streams = 8;         // batch at which a decode step takes twice as long as with one stream
  double work_weight = 0.2;               // work_s over prefill_s; 0: an idle worker's time is free
  double reserved_streams = 1;            // a worker that only decodes counts these too: it is kept free for answers to come
  bool prefill_may_decode = true;         // where no decode worker is left, a prefill worker takes both roles
  uint32_t alternates = 3;                // kept of each role
  uint32_t max_candidates = 256;          // listed with the decision, the best first where there are more
  double unavailable_retry_s = 2;         // Retry-After where a role is missing
  // What is assumed where no worker has measured; where some have, the others are assumed to be like them.
  double default_prefill_tokens_per_s = 500, default_decode_step_s = 0.02, default_transfer_bytes_per_s = 1e9,
         default_transfer_latency_s = 5e-4, default_store_bytes_per_s = 5e8;
};

struct PathSpeed {
  WorkerId peer;
  double bytes_per_s = 0;
};

/// As a worker's heartbeat says it. A rate of 0 is not measured yet.
struct WorkerLoad {
  uint32_t running = 0, waiting = 0;
  uint32_t free_blocks = 0, total_blocks = 0;  // free includes what eviction can free; total 0 = unknown
  uint64_t queued_prefill_tokens = 0;
  uint64_t steps = 0;  // of its engine, since its start
  double prefill_tokens_per_s = 0, decode_step_s = 0, transfer_bytes_per_s = 0, store_bytes_per_s = 0;
  StepModel step_model;
};

struct WorkerView {
  WorkerId id;
  bool prefill = false, decode = false, store = false;  // roles
  bool draining = false;                                // gets nothing new
  WorkerLoad load;
  uint32_t matched_blocks = 0;    // leading blocks of the prompt that it holds
  double age_s = 0;               // since it became ready
  double transfer_latency_s = 0;  // 0 = not measured
  std::span<const PathSpeed> paths;  // of its hand-offs, where one to a single worker is far from load.transfer_bytes_per_s
};

struct RouteQuery {
  RequestId request;
  uint64_t sequence = 0;  // number of the decision: what round_robin turns on
  uint32_t prompt_tokens = 0, max_tokens = 0, block_tokens = 64;
  uint64_t block_bytes = 0;
  std::string tenant;
  int32_t priority = 0;
  std::vector<WorkerId> avoid;  // workers that just failed this request: taken only where nobody else is left
  bool moved = false;           // a stream that goes on elsewhere: not subject to admission
};

struct CostTerms {
  double queue_s = 0, store_load_s = 0, prefill_s = 0, transfer_s = 0, interference_s = 0, decode_s = 0, work_s = 0, total_s = 0;
  /// Time to first token: it does not wait for the hand-off.
  double TtftSeconds() const { return queue_s + store_load_s + prefill_s; }
};

enum class CacheSource : uint8_t { kNone, kDecode, kPrefill, kStore };
std::string_view CacheSourceName(CacheSource source);

struct RouteCandidate {
  WorkerId decode, prefill;  // prefill 0: local
  uint32_t cached_tokens = 0;
  CacheSource cached_from = CacheSource::kNone;
  CostTerms cost;
};

struct RouteDecision {
  Status status;  // kUnavailable: a role is missing, says which; kInvalid: the prompt fits no worker
  RouteCandidate chosen;
  std::vector<WorkerId> prefill_order;      // the chosen one, then the others, best first; empty: local
  std::vector<WorkerId> decode_alternates;  // best first
  /// Decode workers, best first, each with its local way and its best remote way, then the chosen one with the other prefill workers.
  std::vector<RouteCandidate> candidates;
  std::string reason;  // decode=3 prefill=2 cached=128/store why="prefill 2: 0.41 s < local 0.80 s"
  double answer_s = 0;       // expected time of writing the answer there, alone
  double retry_after_s = 0;  // where status is not ok
  bool held = false;         // status kAborted: it waits for its turn at the coordinator, neither admitted nor refused
  double held_s = 0;         // how long it waited there
  double predicted_ttft_s = 0;  // with that, and calibrated: what the terms leave out
  bool ok() const { return status.ok(); }
};

/// Same arguments, same answer. Ties go to the least loaded, then to the lowest id.
RouteDecision Route(const RouterConfig& config, const RouteQuery& query, std::span<const WorkerView> workers);

}  // namespace baton
