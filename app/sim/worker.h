// A simulated worker: continuous batching with chunked prefill on virtual time. A step takes what StepCost says; everything else
// (who waits, who runs, which blocks are cached) is kept as a real worker would.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <queue>
#include <vector>

#include "app/sim/cache.h"
#include "coordinator/router.h"

namespace baton {

/// Seconds of one step: what an engine's benchmark measures.
struct StepCost {
  double base_s = 0.01;              // of any step
  double per_stream_s = 0.0005;      // of each decoding row
  double prefill_tokens_per_s = 8000;
  double Seconds(uint32_t streams, uint32_t prefill_tokens) const {
    return base_s + per_stream_s * streams + prefill_tokens / prefill_tokens_per_s;
  }
};

struct SimWorkerConfig {
  StepCost cost;
  uint32_t max_running = 64, step_token_budget = 512;
  uint32_t blocks = 4000;  // of KV, in use and cached
};

/// A prompt to compute here.
struct SimPrompt {
  size_t request = 0;       // index of the simulation's request
  uint32_t tokens = 0;      // of the whole prompt
  uint32_t fetched_tokens = 0;  // of these, read from the store before it was queued
  uint32_t blocks = 0;      // that it occupies, its answer's included
  std::span<const BlockKey> keys;
  uint32_t answer_tokens = 0;  // that are decoded here after it; 0: handed off
  // kept by the worker
  bool started = false;
  uint32_t cached_tokens = 0, left = 0, held_blocks = 0;
  double started_at_s = 0;
};
/// An answer to write here.
struct SimStream {
  size_t request = 0;
  uint32_t tokens_left = 0, blocks = 0;  // blocks: of the whole sequence
  std::span<const BlockKey> keys;
};

/// What a crash took, and how much of its answer was still to come.
struct SimLost {
  size_t request = 0;
  uint32_t tokens_left = 0;  // 0: it had no token yet, here
};

/// What a step brought.
struct SimStepResult {
  double seconds = 0;
  uint32_t streams = 0;               // that got a token
  std::vector<SimPrompt> prefilled;   // have their first token
  std::vector<size_t> ended;          // requests
};

/// Thread: one.
class SimWorker {
 public:
  SimWorker(const SimWorkerConfig& config, uint32_t block_tokens) : config_(config), block_tokens_(block_tokens), cache_(config.blocks) {}

  void Enqueue(const SimPrompt& prompt) { prompts_.push_back(prompt); }
  void AddStream(const SimStream& stream) { waiting_.push_back(stream); }
  /// Starts a step if none runs and there is work; gives its seconds, or 0.
  double BeginStep(double now_s);
  /// The step that began is over.
  SimStepResult EndStep();
  /// Its prompt is not wanted any more: nobody will take the KV.
  void Cancel(size_t request);
  /// Everything in it is lost; gives the requests that were.
  std::vector<SimLost> Crash();

  WorkerLoad load() const;
  SimCache& cache() { return cache_; }
  double busy_s() const { return busy_s_; }

 private:
  struct Running {
    uint64_t last_step;  // in which it gets its last token
    SimStream stream;
    bool operator<(const Running& other) const { return last_step > other.last_step; }
  };
  /// Room for `blocks`, of which the chain's may be cached already.
  bool HasRoom(uint32_t blocks, std::span<const BlockKey> chain) const;
  void SetPrivate(uint32_t blocks);
  void AdmitStreams();
  bool Start(SimPrompt& prompt, double now_s);
  void Abandon(const SimPrompt& prompt);
  void EndStreams(SimStepResult& result);

  SimWorkerConfig config_;
  uint32_t block_tokens_;
  SimCache cache_;
  std::deque<SimPrompt> prompts_;
  std::deque<SimStream> waiting_;
  std::priority_queue<Running> running_;
  uint32_t private_blocks_ = 0;  // in use and not (yet) in the cache
  uint64_t step_ = 0;
  bool in_step_ = false;
  SimStepResult now_;                // of the step that runs
  uint32_t step_prefill_tokens_ = 0;  // "
  double prefill_rate_ = 0, decode_step_s_ = 0, busy_s_ = 0;  // rates smoothed as a real worker reports them
};

}  // namespace baton
