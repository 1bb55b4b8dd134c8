// What a simulation found.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "app/sim/histogram.h"

namespace baton {

/// What happened within one of the equal spans of a run.
struct SimSpan {
  uint64_t arrived = 0, refused = 0, first_tokens = 0, answer_tokens = 0, prompt_tokens = 0, cached_tokens = 0, moved = 0;
  uint64_t running = 0, waiting = 0, samples = 0;  // sums over samples
};
struct SimWorkerReport {
  std::string name;
  double busy_share = 0;
};

struct SimReport {
  uint64_t requests = 0, completed = 0, refused = 0, invalid = 0, moved = 0, good = 0;
  double seconds = 0;  // virtual, first arrival to last end
  uint64_t prompt_tokens = 0, cached_tokens = 0, answer_tokens = 0, local_prefills = 0, routed = 0;
  SimHistogram ttft_s, itl_s, request_s, prediction_error;
  double busy_share = 0;  // of the engines' time
  uint64_t preemptions = 0, store_memory_reads = 0, store_disk_reads = 0, store_evictions = 0;
  double span_s = 0;  // of each of `spans`
  std::vector<SimSpan> spans;
  std::vector<SimWorkerReport> workers;

  double hit_ratio() const { return prompt_tokens == 0 ? 0 : static_cast<double>(cached_tokens) / static_cast<double>(prompt_tokens); }
  double good_share() const { return requests == 0 ? 0 : static_cast<double>(good) / static_cast<double>(requests); }
  double goodput_per_s() const { return seconds > 0 ? static_cast<double>(good) / seconds : 0; }
  /// One JSON object.
  std::string Json() const;
};

}  // namespace baton
