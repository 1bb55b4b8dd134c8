#include "coordinator/coordinator.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/bytes.h"
#include "base/hash.h"

namespace baton {
namespace {

constexpr double kFarPath = 1.5;  // speeds of two ways nearer than this are the same to the router, which then looks at each worker once

}  // namespace

struct Coordinator::Meters {
  explicit Meters(Metrics& metrics)
      : local(metrics.Counter("baton_coordinator_routes_total", "Decisions by way of prefill", {{"prefill", "local"}})),
        remote(metrics.Counter("baton_coordinator_routes_total", "Decisions by way of prefill", {{"prefill", "remote"}})),
        exhausted(metrics.Counter("baton_coordinator_refused_total", "Refused requests by HTTP status", {{"status", "429"}})),
        unavailable(metrics.Counter("baton_coordinator_refused_total", "Refused requests by HTTP status", {{"status", "503"}})),
        prompt_tokens(metrics.Counter("baton_coordinator_prompt_tokens_total", "Prompt tokens routed")),
        cached_tokens(metrics.Counter("baton_coordinator_expected_cached_tokens_total", "Prompt tokens expected in a cache when routed")),
        lost_beats(metrics.Counter("baton_coordinator_resyncs_total", "Heartbeats answered with a call for a snapshot")),
        deaths(metrics.Counter("baton_coordinator_worker_deaths_total", "Workers declared dead")),
        decision_s(metrics.Histogram("baton_coordinator_decision_seconds", "Time of one decision, keys to choice",
                                     {2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 1e-2})),
        ttft_error(metrics.Histogram("baton_coordinator_ttft_error_ratio", "|predicted - actual| / actual time to first token",
                                     {0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1, 2, 5})),
        ttft_error_median(metrics.Gauge("baton_coordinator_ttft_error_median", "Median of |predicted - actual| / actual of the last 256 times to first token")),
        ttft_error_p90(metrics.Gauge("baton_coordinator_ttft_error_p90", "90th percentile of the same")),
        held(metrics.Gauge("baton_coordinator_requests_held", "Requests that wait for their turn")),
        index_blocks(metrics.Gauge("baton_coordinator_index_blocks", "Blocks held, counted once a holder")),
        index_bytes(metrics.Gauge("baton_coordinator_index_bytes", "Memory of the prefix index")),
        in_flight(metrics.Gauge("baton_coordinator_requests_in_flight", "Admitted requests that have not ended")),
        workers(metrics.Gauge("baton_coordinator_workers", "Workers that are ready")) {}
  prometheus::Counter &local, &remote, &exhausted, &unavailable, &prompt_tokens, &cached_tokens, &lost_beats, &deaths;
  prometheus::Histogram &decision_s, &ttft_error;
  prometheus::Gauge &ttft_error_median, &ttft_error_p90, &held, &index_blocks, &index_bytes, &in_flight, &workers;
};

Coordinator::Coordinator(CoordinatorConfig config, const Clock& clock, Metrics& metrics)
    : config_(config), clock_(clock), membership_(config.membership, static_cast<uint64_t>(clock.UnixSeconds() * 1000), clock.Now()),
      predictions_(config.prediction), admission_(config.admission), meters_(std::make_unique<Meters>(metrics)) {}
Coordinator::~Coordinator() = default;

// ---- members ----

void Coordinator::Forget(WorkerId id) {
  index_.Drop(id);
  predictions_.Drop(id);
}

Result<MemberInfo> Coordinator::Register(MemberInfo info) {
  said_is_old_ = true;
  auto registered = membership_.Register(std::move(info), clock_.Now());
  if (registered.ok()) Forget(registered->id);  // what its former life held is gone
  return registered;
}

Status Coordinator::Announce(WorkerId id, Incarnation incarnation, std::string transport_kind, std::string transport_address) {
  said_is_old_ = true;
  return membership_.Announce(id, incarnation, std::move(transport_kind), std::move(transport_address), clock_.Now());
}

HeartbeatVerdict Coordinator::Heartbeat(WorkerId id, Incarnation incarnation, const HeartbeatReport& report) {
  said_is_old_ = true;
  const Instant now = clock_.Now();
  HeartbeatVerdict verdict = membership_.Heartbeat(id, incarnation, report.sequence, report.snapshot, report.draining, report.load, now);
  if (!verdict.status.ok()) return verdict;
  if (verdict.action != HeartbeatAction::kIgnore) {
    Member& member = *membership_.Edit(id);
    Apply(member, report, verdict.action == HeartbeatAction::kReplace);
    if (!verdict.resync && report.held && *report.held != member.held) verdict.resync = true;  // an event got lost on the way here
    predictions_.Reported(id, member.load, now);
  }
  if (verdict.resync) meters_->lost_beats.Increment();
  return verdict;
}

void Coordinator::Apply(Member& member, const HeartbeatReport& report, bool replace) {
  const WorkerId id = member.info.id;
  if (replace) {
    index_.Drop(id);
    member.held = {};
  }
  for (const HeldChange& change : report.changes) {
    if (change.added ? index_.Add(id, change.key) : index_.Remove(id, change.key)) member.held.Count(change);
  }
  member.paths.clear();
  for (const PathSpeed& path : report.paths) {
    const double ratio = path.bytes_per_s / member.load.transfer_bytes_per_s;
    if (ratio > kFarPath || (ratio > 0 && ratio < 1 / kFarPath)) member.paths.push_back(path);
  }
}

void Coordinator::Disconnect(WorkerId id, Incarnation incarnation) {
  said_is_old_ = true;
  if (!membership_.Disconnect(id, incarnation)) return;
  meters_->deaths.Increment();
  Forget(id);
}

Status Coordinator::Drain(WorkerId id) {
  said_is_old_ = true;
  return membership_.Drain(id);
}

Status Coordinator::SetRole(WorkerId id, const std::string& role) {
  said_is_old_ = true;
  return membership_.SetRole(id, role, clock_.Now());
}

void Coordinator::Forgive(Duration gap) {
  said_is_old_ = true;
  membership_.Forgive(gap);
}

std::vector<WorkerId> Coordinator::Tick() {
  const Instant now = clock_.Now();
  auto dead = membership_.Expire(now);
  said_is_old_ = said_is_old_ || !dead.empty();
  for (const WorkerId id : dead) Forget(id);
  meters_->deaths.Increment(static_cast<double>(dead.size()));
  predictions_.Expire(now);
  admission_.Expire(now, config_.forget_request_after_s);
  meters_->index_blocks.Set(static_cast<double>(index_.holder_blocks()));
  meters_->index_bytes.Set(static_cast<double>(index_.bytes()));
  meters_->ttft_error_median.Set(ttft_errors_.Quantile(0.5));
  meters_->ttft_error_p90.Set(ttft_errors_.Quantile(0.9));
  meters_->held.Set(static_cast<double>(admission_.held()));
  meters_->in_flight.Set(static_cast<double>(admission_.in_flight()));
  meters_->workers.Set(static_cast<double>(membership_.ready_count()));
  return dead;
}

Result<ModelIdentity> Coordinator::Card() const {
  bool prefills = false;
  for (const auto& [id, member] : membership_.members()) {
    if (member.ready && member.decode) return member.info.model;
    if (member.ready && member.prefill) prefills = true;
  }
  if (prefills && config_.router.prefill_may_decode) return membership_.identity();
  return UnavailableError("no decode worker is ready yet");
}

// ---- routing ----

void Coordinator::FillQuery(RouteQuery& query) const {
  query.sequence = decided_;
  if (membership_.identity().empty()) return;
  query.block_tokens = membership_.identity().block_tokens;
  query.block_bytes = membership_.identity().block_bytes;
}

void Coordinator::ReadMembers() const {
  said_.clear();
  for (const auto& [id, member] : membership_.members()) {
    if (!member.ready) continue;
    Said& said = said_.emplace_back(Said{{id, member.prefill, member.decode, member.store, member.info.draining, member.load}, member.ready_at});
    said.view.paths = member.paths;
  }
}

void Coordinator::FillViews(std::span<const BlockKey> keys, std::vector<WorkerView>& views) const {
  if (std::exchange(said_is_old_, false)) ReadMembers();
  views.clear();
  const Instant now = clock_.Now();
  for (const Said& said : said_) {
    WorkerView& view = views.emplace_back(said.view);
    view.age_s = ToSeconds(now - said.ready_at);
  }
  predictions_.AddTo(views, now);
  if (config_.slow_start_s > 0) StartSlowly(views);
  const auto note = [&] {
    for (const PrefixMatch& match : matches_) {
      const auto view = std::lower_bound(views.begin(), views.end(), match.worker, [](const WorkerView& v, WorkerId id) { return v.id < id; });
      if (view != views.end() && view->id == match.worker) view->matched_blocks = std::max(view->matched_blocks, match.blocks);
    }
  };
  index_.Match(keys, matches_);
  note();
  predictions_.Match(keys, matches_);
  note();
}

/// A worker that has just come is the idlest of all, and its caches are empty: it counts as loaded like the others at first.
void Coordinator::StartSlowly(std::vector<WorkerView>& views) const {
  double running = 0, queued = 0, settled = 0;
  bool any_fresh = false;
  for (const WorkerView& view : views) {
    if (!view.prefill && !view.decode) continue;
    if (view.age_s < config_.slow_start_s) {
      any_fresh = true;
      continue;
    }
    ++settled;
    running += view.load.running;
    queued += static_cast<double>(view.load.queued_prefill_tokens);
  }
  if (!any_fresh || settled == 0) return;
  for (WorkerView& view : views) {
    const double missing = (1 - view.age_s / config_.slow_start_s) / settled;
    if (missing <= 0) continue;
    view.load.running += static_cast<uint32_t>(missing * running);
    view.load.queued_prefill_tokens += static_cast<uint64_t>(missing * queued);
  }
}

AdmissionAnswer Coordinator::Admit(const RouteQuery& query, std::span<const BlockKey> keys, const RouteDecision& decision, Instant now) {
  const CostTerms& cost = decision.chosen.cost;
  // A tenant's caches may be apart ("tenant/salt"), its share is one: else a client had as many as it names salts.
  AdmissionQuery asked{query.request, query.tenant.substr(0, query.tenant.find('/')), query.priority};
  asked.tokens = uint64_t{query.prompt_tokens} - decision.chosen.cached_tokens + std::min(query.max_tokens, config_.router.expected_answer_tokens);
  asked.fingerprint = Xxh3_64(AsBytes(query.tenant), query.prompt_tokens + (keys.empty() ? 0 : keys.back().Prefix64())) | 1;
  asked.crowded = Crowded(decision.chosen.decode);
  // Nobody is refused on an assumed rate.
  const bool measured = std::any_of(views_.begin(), views_.end(), [](const WorkerView& v) { return v.load.prefill_tokens_per_s > 0; });
  asked.wait_s = measured ? cost.queue_s : 0;
  asked.room_s = cost.queue_s;
  for (const RouteCandidate& candidate : decision.candidates) asked.room_s = std::min(asked.room_s, candidate.cost.queue_s);
  if (!measured) asked.room_s = 0;
  asked.service_s = cost.store_load_s + cost.prefill_s;
  asked.answer_s = decision.answer_s;
  asked.parallel = static_cast<uint32_t>(std::count_if(views_.begin(), views_.end(), [](const WorkerView& v) { return v.prefill && !v.draining; }));
  if (!query.moved) return admission_.Admit(asked, now);
  admission_.Adopt(asked, now);
  return {};
}

/// More requests wait there than will start at once: the heartbeat that says so is some steps old, hence a few are no crowd.
bool Coordinator::Crowded(WorkerId worker) const {
  const Member* member = membership_.Find(worker);
  return member != nullptr && member->load.waiting > std::max(2u, member->load.running / 8);
}

const RouteDecision& Coordinator::Route(std::span<const BlockKey> keys, RouteQuery query) {
  const Instant begin = clock_.Now();
  FillQuery(query);
  FillViews(keys, views_);
  RouteDecision decision = baton::Route(config_.router, query, views_);
  ++decided_;
  if (decision.ok()) {
    AdmissionAnswer answer = Admit(query, keys, decision, begin);
    decision.status = std::move(answer.status);
    decision.retry_after_s = answer.retry_after_s;
    decision.held_s = answer.held_s;
    if (answer.held) {
      held_ = std::move(decision);
      held_.held = true;
      held_.status = AbortedError("the request waits for its turn");
      return held_;
    }
  }
  if (decision.ok()) {
    decision.predicted_ttft_s = decision.held_s + calibration_.Apply(decision.chosen.cost.TtftSeconds());
    predictions_.Routed(query, decision.chosen, keys, begin);
    (decision.prefill_order.empty() ? meters_->local : meters_->remote).Increment();
    meters_->prompt_tokens.Increment(query.prompt_tokens);
    meters_->cached_tokens.Increment(decision.chosen.cached_tokens);
  } else if (decision.status.code() == StatusCode::kExhausted) {
    meters_->exhausted.Increment();
  } else if (decision.status.code() == StatusCode::kUnavailable) {
    meters_->unavailable.Increment();
  }
  const RouteRecord& record = Remember(query, std::move(decision));
  meters_->decision_s.Observe(ToSeconds(clock_.Now() - begin));
  return record.decision;
}

RouteRecord& Coordinator::Remember(const RouteQuery& query, RouteDecision decision) {
  if (decisions_.size() >= std::max(1u, config_.kept_decisions)) decisions_.pop_front();
  if (decisions_.size() >= std::max(1u, config_.kept_candidates)) {
    std::vector<RouteCandidate>().swap(decisions_[decisions_.size() - std::max(1u, config_.kept_candidates)].decision.candidates);
  }
  return decisions_.emplace_back(RouteRecord{query.request, query.tenant, std::move(decision), query.prompt_tokens, clock_.UnixSeconds()});
}

void Coordinator::Finished(const RequestOutcome& outcome) {
  admission_.Finished(outcome.request, uint64_t{outcome.prompt_tokens} - std::min(outcome.prompt_tokens, outcome.cached_tokens) + outcome.generated_tokens);
  const auto record = std::find_if(decisions_.rbegin(), decisions_.rend(), [&](const RouteRecord& r) { return r.request == outcome.request; });
  if (record == decisions_.rend()) return;
  predictions_.Finished(outcome.request, record->decision.chosen);
  record->finished = true;
  record->outcome = outcome;
  if (!IsRequestTime(outcome.ttft_s) || outcome.moves > 0) return;  // nothing was predicted of what a failure cost
  const double predicted_s = record->decision.predicted_ttft_s;
  calibration_.Add(record->decision.chosen.cost.TtftSeconds(), outcome.ttft_s - record->decision.held_s);
  meters_->ttft_error.Observe(std::abs(predicted_s - outcome.ttft_s) / outcome.ttft_s);
  ttft_errors_.Add(predicted_s, outcome.ttft_s);
}

const RouteRecord* Coordinator::FindDecision(RequestId request) const {
  const auto record = std::find_if(decisions_.rbegin(), decisions_.rend(), [&](const RouteRecord& r) { return r.request == request; });
  return record == decisions_.rend() ? nullptr : &*record;
}

}  // namespace baton
