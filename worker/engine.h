// The engine: requests in, tokens out, one Forward a step over all that run. Continuous batching with chunked prefill under
// a token budget. Step() is a plain function: a thread calls it in production, a virtual timer in simulation.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/block_key.h"
#include "base/clock.h"
#include "base/generation.h"
#include "base/hash.h"
#include "base/ids.h"
#include "base/status.h"
#include "base/step_model.h"
#include "kvstore/block_pool.h"
#include "model/model.h"

namespace baton {

struct EngineConfig {
  uint32_t max_running = 64;           // sequences in the batch
  uint32_t max_waiting = 1024;         // more are refused with kExhausted
  uint32_t step_token_budget = 512;    // tokens a step, decode rows first, the rest for prefill chunks
  uint32_t prefill_chunk_tokens = 256; // of one sequence in one step
  /// Once the speed of prefill is measured, a step takes no more prefill tokens than fit this time (never fewer than 32):
  /// it bounds how long a cancel waits. 0 = no bound.
  double target_step_s = 0.08;
  /// Where answers run, a step takes no more prefill tokens than make it this many times as long as without (never fewer than
  /// 4): how far a long prompt delays them. Higher: prompts are done sooner, answers stutter more. 0 = no bound.
  double prefill_slowdown = 2.5;
  /// Most tokens guessed and checked ahead of each sequence in a step (worker/speculation.h). 0 = off. No bit of an answer
  /// depends on it.
  uint32_t speculative_tokens = 8;
};

/// A block that became full in a request's sequence.
struct SealedBlock {
  BlockId block;        // with a reference for the receiver of this event, who must Unref
  BlockKey key, parent;
  Digest128 digest;
  uint32_t depth = 0;   // index in the request's chain
  std::vector<TokenId> tokens;
};

/// Called on the thread that calls Step(), with no lock held: may call Submit, Cancel and ReleaseHeld. Must not block.
class EngineListener {
 public:
  virtual ~EngineListener() = default;
  /// Every token in order, an EOS or stop token that ends the request included.
  virtual void OnToken(RequestId id, const TokenEvent& event) = 0;
  /// Exactly once a request, last. `stats` are final; reason kError carries `status` (kDeadline: its deadline passed). Its
  /// blocks are given back before this call, except those held for push_layers.
  virtual void OnEnd(RequestId id, FinishReason reason, const RequestStats& stats, const Status& status) = 0;
  /// A full block was computed here (not merely found) and is published: write it behind. Only for requests with use_pool. In
  /// order of depth; a preempted request may seal the same key again. All layers of it have been reported by OnLayer before.
  virtual void OnSealed(RequestId id, SealedBlock block) = 0;
  /// Only for requests with push_layers: layer `layer` of positions [begin, end) of the request's sequence is written in
  /// `blocks` (the request's blocks in order, all of them, the same in every call); they stay referenced until the request's
  /// OnEnd returned and the listener called Engine::ReleaseHeld(id), in either order. Called from within Forward.
  /// The first call for a request has layer 0, and its `begin` says what was there already (found in the pool or given as
  /// ready): [0, begin) is complete in all layers of `blocks` and is not reported. From there on each chunk reports all layers
  /// in order, chunks follow without gap or overlap until the prompt's end, and begin < prompt.size() always: at least the
  /// last token is computed here. Such a request is never preempted once it has reported.
  virtual void OnLayer(RequestId id, uint32_t layer, uint32_t begin, uint32_t end, const std::vector<BlockId>& blocks) = 0;
  /// A preempted request is about to go on, and of the full blocks that it had, `keys` from the start of its chain, some have
  /// left the pool. True: the listener brings back what it can and then calls Engine::Resume, whatever came of it; the request
  /// waits for that, others do not. False: they are computed again.
  virtual bool OnResume(RequestId /*id*/, std::span<const BlockKey> /*keys*/) { return false; }
};

struct EngineRequest {
  GenerateRequest request;
  BlockKey root;                       // of the request's key chain (RootKey with its tenant)
  /// Blocks that already hold the KV of positions [0, ready_tokens), found in the pool, fetched from the store or landed
  /// from a prefill worker; the engine takes over one reference each. May cover more positions than are ready (reserved).
  /// Blocks that are not wholly ready must be private. With use_pool the wholly ready ones that are not yet published are, at
  /// the start, without OnSealed (they were not computed here).
  std::vector<BlockId> blocks;
  uint32_t ready_tokens = 0;
  uint32_t cached_tokens = 0;          // of these, how many came from a cache: for the stats
  /// The prompt was computed elsewhere and this is the token that followed (sampled there by the same function); it has
  /// already been sent. ready_tokens must then be prompt.size(). OnToken is not called for it; it counts as one of max_tokens
  /// and may end the request at once.
  std::optional<TokenEvent> first_token;
  bool prefill_only = false;           // ends after the first token (a prefill worker's request): reason kNone, token given
  bool push_layers = false;            // report OnLayer
  bool use_pool = true;                // look up and publish full blocks in the pool
};

struct EngineLoad {
  uint32_t running = 0, waiting = 0;
  uint64_t queued_prefill_tokens = 0;
  uint64_t steps = 0;        // since the start
  uint64_t preemptions = 0;  // since the start: requests that gave their blocks to others and wait again
  uint64_t accepted_tokens = 0, rejected_tokens = 0;  // since the start: guesses checked, by what became of them
  double step_s = 0, prefill_tokens_per_s = 0, decode_step_s = 0;  // smoothed measurements, 0 = not yet
  StepModel step_model;
};

/// Thread: Submit, Cancel, CancelAll, ReleaseHeld, Resume, load from any; Step and WaitForWork from one. The destructor gives every
/// block back, without calls to the listener.
class Engine {
 public:
  static std::unique_ptr<Engine> Create(const EngineConfig& config, Model& model, BlockPool& pool, EngineListener& listener,
                                        const Clock& clock);
  virtual ~Engine() = default;
  /// max_tokens counts what this request adds, not request.generated. Errors: kInvalid (empty prompt, longer than the model
  /// or the pool holds, token outside the vocabulary, bad sampling value or grammar: names it and the limit; an id that is in use),
  /// kExhausted (queue full). On error the caller keeps its block references.
  virtual Status Submit(EngineRequest request) = 0;
  /// Idempotent; OnEnd(kCancelled) follows at the next step unless the request has ended.
  virtual void Cancel(RequestId id) = 0;
  /// Cancels everything submitted so far.
  virtual void CancelAll() = 0;
  /// The listener is done with a push_layers request's blocks. Before the request's end it takes effect at the end. Idempotent.
  virtual void ReleaseHeld(RequestId id) = 0;
  /// The end of what OnResume began: published blocks from the start of the request's chain, none if there is nothing; the
  /// engine takes over a reference on each. The request may have ended since.
  virtual void Resume(RequestId id, std::vector<BlockId> blocks) = 0;
  /// One step; false when there was nothing to do.
  virtual bool Step() = 0;
  /// Sleeps until Submit, Cancel or ReleaseHeld gave something to do, or `timeout`; shorter while requests wait for blocks that
  /// others hold.
  virtual void WaitForWork(Duration timeout) = 0;
  virtual EngineLoad load() const = 0;
};

/// Runs an engine's Step on its own thread until destroyed; destruction ends every request with kCancelled.
class EngineThread {
 public:
  explicit EngineThread(Engine& engine);
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace baton
