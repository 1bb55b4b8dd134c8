#include "coordinator/coordinator.h"

#include <algorithm>
#include <utility>

namespace baton {

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
        index_blocks(metrics.Gauge("baton_coordinator_index_blocks", "Blocks held, counted once a holder")),
        index_bytes(metrics.Gauge("baton_coordinator_index_bytes", "Memory of the prefix index")),
        in_flight(metrics.Gauge("baton_coordinator_requests_in_flight", "Admitted requests that have not ended")),
        workers(metrics.Gauge("baton_coordinator_workers", "Workers that are ready")) {}
  prometheus::Counter &local, &remote, &exhausted, &unavailable, &prompt_tokens, &cached_tokens, &lost_beats, &deaths;
  prometheus::Histogram &decision_s, &ttft_error;
  prometheus::Gauge &index_blocks, &index_bytes, &in_flight, &workers;
};

Coordinator::Coordinator(CoordinatorConfig config, const Clock& clock, Metrics& metrics)
    : config_(config), clock_(clock), membership_(config.membership, static_cast<uint64_t>(clock.UnixSeconds() * 1000)),
      predictions_(config.prediction), admission_(config.admission), meters_(std::make_unique<Meters>(metrics)) {}
Coordinator::~Coordinator() = default;

// ---- members ----

void Coordinator::Forget(WorkerId id) {
  index_.Drop(id);
  predictions_.Drop(id);
}

Result<MemberInfo> Coordinator::Register(MemberInfo info) {
  auto registered = membership_.Register(std::move(info), clock_.Now());
  if (registered.ok()) Forget(registered->id);  // what its former life held is gone
  return registered;
}

Status Coordinator::Announce(WorkerId id, Incarnation incarnation, std::string transport_kind, std::string transport_address) {
  return membership_.Announce(id, incarnation, std::move(transport_kind), std::move(transport_address), clock_.Now());
}

HeartbeatVerdict Coordinator::Heartbeat(WorkerId id, Incarnation incarnation, const HeartbeatReport& report) {
  const Instant now = clock_.Now();
  HeartbeatVerdict verdict = membership_.Heartbeat(id, incarnation, report.sequence, report.snapshot, report.draining, report.load, now);
  if (!verdict.status.ok()) return verdict;
  if (verdict.resync) meters_->lost_beats.Increment();
  if (verdict.action == HeartbeatAction::kIgnore) return verdict;
  if (verdict.action == HeartbeatAction::kReplace) index_.Drop(id);
  for (const HeldChange& change : report.changes) {
    if (change.added) index_.Add(id, change.key);
    else index_.Remove(id, change.key);
  }
  predictions_.Reported(id, now);
  return verdict;
}

void Coordinator::Disconnect(WorkerId id, Incarnation incarnation) {
  if (!membership_.Disconnect(id, incarnation)) return;
  meters_->deaths.Increment();
  Forget(id);
}

Status Coordinator::Drain(WorkerId id) { return membership_.Drain(id); }
Status Coordinator::SetRole(WorkerId id, const std::string& role) { return membership_.SetRole(id, role); }

std::vector<WorkerId> Coordinator::Tick() {
  const Instant now = clock_.Now();
  auto dead = membership_.Expire(now);
  for (const WorkerId id : dead) Forget(id);
  meters_->deaths.Increment(static_cast<double>(dead.size()));
  predictions_.Expire(now);
  admission_.Expire(now, config_.forget_request_after_s);
  meters_->index_blocks.Set(static_cast<double>(index_.holder_blocks()));
  meters_->index_bytes.Set(static_cast<double>(index_.bytes()));
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

void Coordinator::FillViews(std::span<const BlockKey> keys, std::vector<WorkerView>& views) const {
  views.clear();
  for (const auto& [id, member] : membership_.members()) {  // in ascending order of id
    if (!member.ready) continue;
    WorkerView& view = views.emplace_back(WorkerView{id, member.prefill, member.decode, member.store, member.info.draining, member.load});
    predictions_.AddTo(id, view.load);
  }
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

AdmissionAnswer Coordinator::Admit(const RouteQuery& query, const RouteDecision& decision, Instant now) {
  const CostTerms& cost = decision.chosen.cost;
  AdmissionQuery asked{query.request, query.tenant, query.priority};
  asked.tokens = uint64_t{query.prompt_tokens} + std::min(query.max_tokens, config_.router.expected_answer_tokens);
  // Nobody is refused on an assumed rate.
  const bool measured = std::any_of(views_.begin(), views_.end(), [](const WorkerView& v) { return v.load.prefill_tokens_per_s > 0; });
  asked.wait_s = measured ? cost.queue_s : 0;
  asked.service_s = cost.store_load_s + cost.prefill_s;
  asked.answer_s = decision.answer_s;
  asked.parallel = static_cast<uint32_t>(std::count_if(views_.begin(), views_.end(), [](const WorkerView& v) { return v.prefill && !v.draining; }));
  if (!query.moved) return admission_.Admit(asked, now);
  admission_.Adopt(asked, now);
  return {};
}

RouteDecision Coordinator::Route(std::span<const BlockKey> keys, RouteQuery query) {
  const Instant begin = clock_.Now();
  FillQuery(query);
  FillViews(keys, views_);
  RouteDecision decision = baton::Route(config_.router, query, views_);
  ++decided_;
  if (decision.ok()) {
    AdmissionAnswer answer = Admit(query, decision, begin);
    decision.status = std::move(answer.status);
    decision.retry_after_s = answer.retry_after_s;
  }
  if (decision.ok()) {
    predictions_.Routed(query, decision.chosen, keys, begin);
    (decision.prefill_order.empty() ? meters_->local : meters_->remote).Increment();
    meters_->prompt_tokens.Increment(query.prompt_tokens);
    meters_->cached_tokens.Increment(decision.chosen.cached_tokens);
  } else if (decision.status.code() == StatusCode::kExhausted) {
    meters_->exhausted.Increment();
  } else if (decision.status.code() == StatusCode::kUnavailable) {
    meters_->unavailable.Increment();
  }
  Remember(query, decision);
  meters_->decision_s.Observe(ToSeconds(clock_.Now() - begin));
  return decision;
}

void Coordinator::Remember(const RouteQuery& query, const RouteDecision& decision) {
  if (decisions_.size() >= config_.kept_decisions) decisions_.pop_front();
  decisions_.push_back({query.request, query.tenant, decision, query.prompt_tokens, clock_.UnixSeconds()});
}

void Coordinator::Finished(const RequestOutcome& outcome) {
  admission_.Finished(outcome.request);
  const auto record = std::find_if(decisions_.rbegin(), decisions_.rend(), [&](const RouteRecord& r) { return r.request == outcome.request; });
  if (record == decisions_.rend()) return;
  predictions_.Finished(outcome.request, record->decision.chosen);
  record->finished = true;
  record->outcome = outcome;
  if (outcome.ok && outcome.ttft_s > 0) {
    meters_->ttft_error.Observe(std::abs(record->decision.chosen.cost.TtftSeconds() - outcome.ttft_s) / outcome.ttft_s);
  }
}

const RouteRecord* Coordinator::FindDecision(RequestId request) const {
  const auto record = std::find_if(decisions_.rbegin(), decisions_.rend(), [&](const RouteRecord& r) { return r.request == request; });
  return record == decisions_.rend() ? nullptr : &*record;
}

}  // namespace baton
