// What the coordinator knows before the workers say it: a request that was routed a moment ago loads its workers although no
// heartbeat shows it yet, and its prompt will be in the cache of the one that computes it. Without this, a burst goes to one worker, and siblings
// (same prompt, n at a time) are computed several times.
//
// Thread: one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "coordinator/prefix_index.h"
#include "coordinator/router.h"

namespace baton {

struct PredictionConfig {
  double settle_s = 0.05;          // age from which a heartbeat's load contains a routed request
  double prefix_ttl_s = 2;         // by then the worker's own events say what it holds
  uint32_t min_stride = 4;         // blocks between the kept keys of a chain: this, or a fifth of the blocks so far
  uint32_t max_prefixes = 4096;    // routed prompts remembered at a time
};

class Predictions {
 public:
  explicit Predictions(PredictionConfig config) : config_(config) {}

  /// `request` went that way; `keys` is its chain.
  void Routed(const RouteQuery& query, const RouteCandidate& chosen, std::span<const BlockKey> keys, Instant now);
  /// The worker's load of now is known: what is older than settle_s is in it.
  void Reported(WorkerId worker, const WorkerLoad& load, Instant now);
  /// `chosen` is what Routed was given.
  void Finished(RequestId request, const RouteCandidate& chosen);
  void Drop(WorkerId worker);
  void Expire(Instant now);

  /// Adds what is in flight to the reported loads, and takes off what was computed since; `views` by ascending id.
  void AddTo(std::span<WorkerView> views, Instant now) const;
  /// Blocks of the chain that each worker will hold, rounded down to a kept key.
  void Match(std::span<const BlockKey> keys, std::vector<PrefixMatch>& out) const;

 private:
  struct Pending {
    RequestId request;
    Instant at;
    uint32_t prefill_tokens = 0;  // 0 where it only decodes
    uint32_t blocks = 0;          // that it will take
    bool decodes = false;
  };
  struct PendingOfWorker {
    std::deque<Pending> requests;  // oldest first
    WorkerLoad sum;                // what they add
    // Prompt tokens that wait there: as reported, with what was routed since, shrinking at the measured rate.
    double queued_tokens = 0, tokens_per_s = 0;
    Instant queued_at;
    double QueuedAt(Instant now) const { return std::max(0.0, queued_tokens - tokens_per_s * ToSeconds(now - queued_at)); }
    void Push(const Pending& pending, Instant now);
    void Report(const WorkerLoad& load, Instant now);
    void Erase(std::deque<Pending>::iterator at);
    void EraseOlder(Instant now, double age_s);
  };
  struct Prefix {
    WorkerId worker;
    Instant until;
    std::vector<BlockKey> keys;
  };
  void Sample(std::span<const BlockKey> keys) const;
  void Expect(WorkerId worker, Instant now);
  void Forget();  // the oldest prefix

  PredictionConfig config_;
  std::unordered_map<WorkerId, PendingOfWorker> pending_;
  std::deque<Prefix> prefixes_;  // ascending `until`
  PrefixIndex expected_;
  /// The kept keys of the chain in hand (a key binds all before it, so a few stand for all) and how many blocks each ends.
  mutable std::vector<BlockKey> sample_;
  mutable std::vector<uint32_t> lengths_;
};

}  // namespace baton
