// The coordinator's mind: members, index, router and admission tied together, without any RPC. Its state is soft: workers send
// all of it again after a restart. It never sees a token or a KV byte.
//
// Thread: one (the loop, or a simulation).
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "coordinator/admission.h"
#include "coordinator/calibration.h"
#include "coordinator/error_window.h"
#include "coordinator/membership.h"
#include "coordinator/predictions.h"
#include "coordinator/prefix_index.h"
#include "coordinator/router.h"

namespace baton {

struct CoordinatorConfig {
  MembershipConfig membership;
  RouterConfig router;
  AdmissionConfig admission;
  PredictionConfig prediction;
  uint32_t kept_decisions = 1024;      // for ExplainRequest and LastDecisions
  uint32_t kept_candidates = 128;      // of the newest of these all candidates: their memory stays in the processor's cache
  double forget_request_after_s = 600; // a request whose end was never told
  double slow_start_s = 10;            // a worker that has just come gets its full share after so long: it knows nothing yet
};

struct HeartbeatReport {
  uint64_t sequence = 0;
  bool snapshot = false, draining = false;
  WorkerLoad load;
  std::vector<HeldChange> changes;  // in the order they happened
  /// What the worker's events add up to, these included; a count that differs here is an event that got lost.
  std::optional<HeldSum> held;
  std::vector<PathSpeed> paths;
};

/// How a request went, told by whoever ran it.
struct RequestOutcome {
  RequestId request;
  double ttft_s = 0, total_s = 0;
  uint32_t prompt_tokens = 0, cached_tokens = 0;
  bool ok = true;
  double queue_s = 0, prefill_s = 0, decode_s = 0;  // as its workers measured them
  uint32_t generated_tokens = 0, moves = 0;
};

/// A decision as it is remembered.
struct RouteRecord {
  RequestId request;
  std::string tenant;
  RouteDecision decision;
  uint32_t prompt_tokens = 0;
  double unix_s = 0;
  bool finished = false;
  RequestOutcome outcome;
};

class Coordinator {
 public:
  /// `clock` and `metrics` outlive it.
  Coordinator(CoordinatorConfig config, const Clock& clock, Metrics& metrics);
  ~Coordinator();

  /// Members: errors and meaning as Membership's.
  Result<MemberInfo> Register(MemberInfo info);
  Status Announce(WorkerId id, Incarnation incarnation, std::string transport_kind, std::string transport_address);
  HeartbeatVerdict Heartbeat(WorkerId id, Incarnation incarnation, const HeartbeatReport& report);
  void Disconnect(WorkerId id, Incarnation incarnation);
  Status Drain(WorkerId id);
  /// As Membership's.
  Status SetRole(WorkerId id, const std::string& role);
  /// Declares the silent dead, forgets what is too old. Call a few times in dead_after_s; gives the newly dead.
  std::vector<WorkerId> Tick();
  /// As Membership's.
  void Forgive(Duration gap);
  bool Settles() const { return membership_.Settles(clock_.Now()); }

  /// Admission and route. `keys` is the chain of the prompt's full blocks; block_tokens, block_bytes and sequence of `query` are
  /// filled in here. status kExhausted is HTTP 429, kUnavailable 503, both with retry_after_s. A decision that is `held` is none:
  /// ask again when NextHeld says so. Valid until the next call of any method.
  const RouteDecision& Route(std::span<const BlockKey> keys, RouteQuery query);
  /// Of the held requests, whose turn it is, perhaps before there is room; 0 where none is held.
  RequestId NextHeld() { return admission_.Next(); }
  /// A held request is wanted no more.
  void Withdraw(RequestId request) { admission_.Withdraw(request); }
  void Finished(const RequestOutcome& outcome);

  /// kUnavailable until a worker that decodes is ready (says what is missing).
  Result<ModelIdentity> Card() const;
  const Membership& membership() const { return membership_; }
  const PrefixIndex& index() const { return index_; }
  /// Newest last; null for an unknown request.
  const std::deque<RouteRecord>& LastDecisions() const { return decisions_; }
  const RouteRecord* FindDecision(RequestId request) const;

  /// One JSON object each. Workers, loads, index, last decisions; what a prompt's route would be, without taking it; what one
  /// request's was, predicted and actual (kNotFound).
  std::string ClusterJson() const;
  std::string ExplainRouteJson(std::span<const BlockKey> keys, RouteQuery query) const;
  Result<std::string> ExplainRequestJson(RequestId request) const;

 private:
  struct Meters;
  void Forget(WorkerId id);
  void Apply(Member& member, const HeartbeatReport& report, bool replace);
  void FillQuery(RouteQuery& query) const;
  void FillViews(std::span<const BlockKey> keys, std::vector<WorkerView>& views) const;
  void ReadMembers() const;
  void StartSlowly(std::vector<WorkerView>& views) const;
  bool Crowded(WorkerId worker) const;
  AdmissionAnswer Admit(const RouteQuery& query, std::span<const BlockKey> keys, const RouteDecision& decision, Instant now);
  RouteRecord& Remember(const RouteQuery& query, RouteDecision decision);

  CoordinatorConfig config_;
  const Clock& clock_;
  Membership membership_;
  PrefixIndex index_;
  Predictions predictions_;
  Admission admission_;
  std::deque<RouteRecord> decisions_;
  RouteDecision held_;  // the last one that is none
  ErrorWindow ttft_errors_;
  Calibration calibration_;  // of the time to first token
  uint64_t decided_ = 0;
  struct Said {  // what a ready member said last
    WorkerView view;
    Instant ready_at;
  };
  /// By ascending id; made again after a change of the members.
  mutable std::vector<Said> said_;
  mutable bool said_is_old_ = true;
  mutable std::vector<PrefixMatch> matches_;  // kept for its memory
  mutable std::vector<WorkerView> views_;     // "
  std::unique_ptr<Meters> meters_;
};

}  // namespace baton
