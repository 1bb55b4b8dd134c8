// A simulated worker: the engine's loop (worker/engine.cc) on virtual time. What each step runs is decided by the engine's own Schedule,
// what it reports is measured by the engine's own StepMeter; a step takes what StepSpeed says; blocks are kept as the pool keeps them.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "app/sim/cache.h"
#include "coordinator/router.h"
#include "worker/scheduler.h"
#include "worker/step_meter.h"

namespace baton {

/// Seconds of one step: what an engine's benchmark measures.
struct StepSpeed {
  double base_s = 0.01;              // of any step
  double per_stream_s = 0.0005;      // of each decoding row
  double prefill_tokens_per_s = 8000;
  double Seconds(uint32_t streams, uint32_t prefill_tokens) const { return base_s + per_stream_s * streams + prefill_tokens / prefill_tokens_per_s; }
};

struct SimWorkerConfig {
  StepSpeed cost;
  uint32_t max_running = 64, step_token_budget = 512, prefill_chunk_tokens = 256;
  double target_step_s = 0.08;  // EngineConfig's
  uint32_t blocks = 4000;       // of KV, in use and cached
};

/// A prompt to compute here.
struct SimPrompt {
  size_t request = 0;           // index of the simulation's request
  uint32_t tokens = 0;          // of the whole prompt
  uint32_t fetched_tokens = 0;  // of these, read from the store before it was queued
  std::span<const BlockKey> keys;
  uint32_t answer_tokens = 0;  // that are decoded here after it; 0: handed off
  // what became of it:
  uint32_t cached_tokens = 0;
  double started_at_s = 0;
};
/// An answer to write here: its prompt has landed.
struct SimStream {
  size_t request = 0;
  uint32_t prompt_tokens = 0, tokens_left = 0;
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
  uint32_t streams = 0;              // that got a token behind their first
  std::vector<SimPrompt> prefilled;  // have their first token
  std::vector<size_t> ended;         // requests
};

/// Thread: one.
class SimWorker {
 public:
  SimWorker(const SimWorkerConfig& config, uint32_t block_tokens) : config_(config), block_tokens_(block_tokens), cache_(config.blocks) {}

  /// What a predecessor did is counted on.
  SimWorker(const SimWorkerConfig& config, uint32_t block_tokens, double busy_s, uint64_t preemptions) : SimWorker(config, block_tokens) {
    busy_s_ = busy_s;
    preemptions_ = preemptions;
  }

  void Enqueue(const SimPrompt& prompt);
  /// Its blocks are taken when there is room: until then it waits.
  void AddStream(const SimStream& stream) { landing_.push_back(stream); }
  /// Starts a step if none runs and there is work; gives its seconds, or 0.
  double BeginStep(double now_s);
  /// The step that began is over.
  SimStepResult EndStep();
  bool in_step() const { return in_step_; }
  /// It is not wanted any more.
  void Cancel(size_t request);
  /// Everything in it is lost; gives the requests that were.
  std::vector<SimLost> Crash();

  WorkerLoad load() const;
  SimCache& cache() { return cache_; }
  double busy_s() const { return busy_s_; }
  uint64_t preemptions() const { return preemptions_; }

 private:
  struct Sequence {
    SimPrompt prompt;
    uint32_t size = 0, computed = 0, end = 0;  // tokens known, of these with KV, when it ends
    uint32_t held = 0, own = 0;                // blocks: shared ones at its front, private ones behind
    bool running = false, started = false, ended = false, has_first = false;
    bool hand_off() const { return prompt.answer_tokens == 0; }
  };
  struct Run {
    uint32_t sequence, tokens;
  };
  size_t used() const { return cache_.pinned() + private_blocks_; }
  void AddPrivate(int64_t blocks);
  void TakeLanded();
  void FillView(double now_s);
  bool IsDeferred(const Sequence& sequence, size_t index) const;
  void Prepare(double now_s);
  void TakePrefix(Sequence& sequence);
  void Release(Sequence& sequence);
  void Advance(Sequence& sequence, uint32_t tokens, SimStepResult& result);

  SimWorkerConfig config_;
  uint32_t block_tokens_;
  SimCache cache_;
  std::vector<Sequence> sequences_;  // in order of arrival
  std::deque<SimStream> landing_;    // no room yet
  uint32_t running_ = 0;
  uint32_t private_blocks_ = 0;  // in use and not in the cache
  ScheduleView view_;
  std::vector<uint32_t> rows_;  // of the view: indices of sequences_
  SchedulePlan plan_;
  std::vector<Run> runs_;
  uint64_t steps_ = 0;
  bool in_step_ = false;
  double step_s_ = 0, busy_s_ = 0;
  uint64_t preemptions_ = 0;
  StepMeter meter_;
};

}  // namespace baton
