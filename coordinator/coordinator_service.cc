#include "coordinator/coordinator_service.h"

#include "base/log.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

constexpr int kLateTicks = 4;
constexpr uint32_t kMaxKeys = 1 << 16;  // of one prompt: a million tokens in the smallest blocks

WorkerLoad ReadLoad(wire::Load::Reader in) {
  WorkerLoad load;
  load.running = in.getRunning();
  load.waiting = in.getWaiting();
  load.queued_prefill_tokens = in.getQueuedPrefillTokens();
  load.prefill_tokens_per_s = in.getPrefillTokensPerS();
  load.decode_step_s = in.getDecodeStepS();
  load.free_blocks = in.getFreeBlocks();
  load.total_blocks = in.getTotalBlocks();
  load.transfer_bytes_per_s = in.getTransferBytesPerS();
  load.store_bytes_per_s = in.getStoreBytesPerS();
  load.steps = in.getSteps();
  load.step_model = {in.getStepModel().getBaseS(), in.getStepModel().getTokenS(), in.getStepModel().getPairS(), in.getStepModel().getRowS()};
  return load;
}

struct Asked {
  std::vector<BlockKey> keys;
  RouteQuery query;
};
Result<Asked> ReadQuery(wire::RouteQuery::Reader in) {
  Asked asked;
  if (in.getKeys().size() > kMaxKeys) return InvalidError("a prompt of {} blocks is too long", in.getKeys().size());
  ASSIGN_OR_RETURN(asked.keys, ReadKeys(in.getKeys()));
  asked.query.request = RequestId(in.getRequestId());
  asked.query.tenant = ToString(in.getTenant());
  asked.query.prompt_tokens = in.getPromptTokens();
  asked.query.max_tokens = in.getMaxTokens();
  asked.query.priority = in.getPriority();
  for (const uint32_t id : in.getAvoid()) asked.query.avoid.push_back(WorkerId(id));
  asked.query.moved = in.getMoved();
  return Result<Asked>(std::move(asked));
}

void WriteDecision(const RouteDecision& decision, const Membership& membership, wire::Coordinator::RouteResults::Builder results) {
  const Member* decode = membership.Find(decision.chosen.decode);
  const bool gone = decision.ok() && (decode == nullptr || !decode->alive);  // since it was chosen, a turn of the loop ago
  WriteStatus(gone ? UnavailableError("worker {} has just died", decision.chosen.decode.value) : decision.status, results.initStatus());
  results.setRetryAfterS(decision.retry_after_s);
  if (gone || !decision.ok()) return;
  auto plan = results.initPlan();
  plan.setReason(decision.reason);
  WriteMember(decode->info, plan.initDecode());
  std::vector<const Member*> prefill;
  for (const WorkerId id : decision.prefill_order) {
    const Member* member = membership.Find(id);
    if (member != nullptr && member->alive) prefill.push_back(member);
  }
  auto out = plan.initPrefill(static_cast<uint32_t>(prefill.size()));
  for (uint32_t i = 0; i < prefill.size(); ++i) WriteMember(prefill[i]->info, out[i]);
}

/// Held by a worker as long as it is connected: its end is the worker's end.
class SessionImpl final : public wire::WorkerSession::Server {
 public:
  SessionImpl(Coordinator& coordinator, MemberInfo self) : coordinator_(coordinator), self_(std::move(self)) {}
  ~SessionImpl() noexcept(false) { coordinator_.Disconnect(self_.id, self_.incarnation); }

  kj::Promise<void> heartbeat(HeartbeatContext context) override {
    const auto params = context.getParams();
    HeartbeatReport report;
    report.sequence = params.getSequence();
    report.snapshot = params.getSnapshot();
    report.draining = params.getDraining();
    report.load = ReadLoad(params.getLoad());
    report.held = HeldSum{params.getHeldBlocks(), params.getHeldSum()};
    for (const auto path : params.getLoad().getPaths()) report.paths.push_back({WorkerId(path.getPeer()), path.getBytesPerS()});
    for (const auto event : params.getEvents()) {
      auto key = ReadKey(event.getKey());
      if (key.ok()) report.changes.push_back({event.getAdded(), *key});
    }
    const HeartbeatVerdict verdict = coordinator_.Heartbeat(self_.id, self_.incarnation, report);
    auto results = context.getResults();
    WriteStatus(verdict.status, results.initStatus());
    results.setResync(verdict.resync);
    results.setDrain(verdict.drain);
    const Membership& membership = coordinator_.membership();
    const bool tell = params.getMembershipVersion() != membership.version() && !coordinator_.Settles();
    results.setMembershipVersion(tell ? membership.version() : params.getMembershipVersion());
    if (!tell) return kj::READY_NOW;
    const std::vector<MemberInfo> ready = membership.Ready();
    auto members = results.initMembers(static_cast<uint32_t>(ready.size()));
    for (uint32_t i = 0; i < ready.size(); ++i) WriteMember(ready[i], members[i]);
    return kj::READY_NOW;
  }

  kj::Promise<void> announce(AnnounceContext context) override {
    const auto params = context.getParams();
    const Status status = coordinator_.Announce(self_.id, self_.incarnation, ToString(params.getTransportKind()), ToString(params.getTransportAddress()));
    WriteStatus(status, context.getResults().initStatus());
    return kj::READY_NOW;
  }

 private:
  Coordinator& coordinator_;
  const MemberInfo self_;
};

}  // namespace

kj::Promise<void> CoordinatorService::register_(RegisterContext context) {
  auto results = context.getResults();
  auto info = ReadInfo(context.getParams().getInfo());
  if (info.ok()) {
    info->id = WorkerId(context.getParams().getFormerId());
    info->incarnation = Incarnation(context.getParams().getFormerIncarnation());
  }
  auto member = info.ok() ? coordinator_.Register(std::move(*info)) : std::move(info);
  WriteStatus(member.status(), results.initStatus());
  if (!member.ok()) return kj::READY_NOW;
  LOG_INFO("{} joins as worker {}, incarnation {}", member->name, member->id.value, member->incarnation.value);
  results.setId(member->id.value);
  results.setIncarnation(member->incarnation.value);
  results.setSession(kj::heap<SessionImpl>(coordinator_, std::move(*member)));
  return kj::READY_NOW;
}

kj::Promise<void> CoordinatorService::route(RouteContext context) {
  auto asked = ReadQuery(context.getParams().getQuery());
  if (!asked.ok()) {
    WriteStatus(asked.status(), context.getResults().initStatus());
    return kj::READY_NOW;
  }
  const RouteDecision& decision = coordinator_.Route(asked->keys, asked->query);
  if (!decision.held) {
    WriteDecision(decision, coordinator_.membership(), context.getResults());
    return kj::READY_NOW;
  }
  context.releaseParams();
  context.allowCancellation();
  return held_.Wait(std::move(asked->keys), std::move(asked->query)).then([this, context](RouteDecision later) mutable {
    WriteDecision(later, coordinator_.membership(), context.getResults());
  });
}

kj::Promise<void> CoordinatorService::card(CardContext context) {
  auto results = context.getResults();
  const auto identity = coordinator_.Card();
  WriteStatus(identity.status(), results.initStatus());
  if (identity.ok()) WriteIdentity(*identity, results.initModel());
  return kj::READY_NOW;
}

kj::Promise<void> CoordinatorService::finished(FinishedContext context) {
  const auto params = context.getParams();
  RequestOutcome outcome;
  outcome.request = RequestId(params.getRequestId());
  outcome.ttft_s = params.getTtftS();
  outcome.total_s = params.getTotalS();
  outcome.prompt_tokens = params.getPromptTokens();
  outcome.cached_tokens = params.getCachedTokens();
  outcome.ok = params.getOk();
  outcome.queue_s = params.getQueueS();
  outcome.prefill_s = params.getPrefillS();
  outcome.decode_s = params.getDecodeS();
  outcome.generated_tokens = params.getGeneratedTokens();
  outcome.moves = params.getMoves();
  coordinator_.Finished(outcome);
  held_.LetGo();
  return kj::READY_NOW;
}

kj::Promise<void> CoordinatorService::clusterJson(ClusterJsonContext context) {
  context.getResults().setJson(coordinator_.ClusterJson());
  return kj::READY_NOW;
}

kj::Promise<void> CoordinatorService::explainRoute(ExplainRouteContext context) {
  auto asked = ReadQuery(context.getParams().getQuery());
  if (!asked.ok()) return KJ_EXCEPTION(FAILED, kj::StringPtr(asked.status().message().c_str()));
  context.getResults().setJson(coordinator_.ExplainRouteJson(asked->keys, std::move(asked->query)));
  return kj::READY_NOW;
}

kj::Promise<void> CoordinatorService::explainRequest(ExplainRequestContext context) {
  const auto json = coordinator_.ExplainRequestJson(RequestId(context.getParams().getRequestId()));
  WriteStatus(json.status(), context.getResults().initStatus());
  if (json.ok()) context.getResults().setJson(*json);
  return kj::READY_NOW;
}

kj::Promise<void> CoordinatorService::drain(DrainContext context) {
  WriteStatus(coordinator_.Drain(WorkerId(context.getParams().getWorker())), context.getResults().initStatus());
  return kj::READY_NOW;
}

kj::Promise<void> CoordinatorService::role(RoleContext context) {
  const auto params = context.getParams();
  WriteStatus(coordinator_.SetRole(WorkerId(params.getWorker()), ToString(params.getRole())), context.getResults().initStatus());
  return kj::READY_NOW;
}

kj::Promise<void> CoordinatorService::metrics(MetricsContext context) {
  context.getResults().setText(metrics_.Text());
  return kj::READY_NOW;
}

kj::Promise<void> RunTicks(Coordinator& coordinator, kj::Timer& timer, Duration interval) {
  const kj::TimePoint due = timer.now() + interval.count() * kj::NANOSECONDS;
  return timer.atTime(due).then([&coordinator, &timer, interval, due]() {
    // This process itself was stopped, or the machine is very busy: nobody could be heard meanwhile, so nobody was silent.
    const Duration late = std::chrono::nanoseconds((timer.now() - due) / kj::NANOSECONDS);
    if (late > kLateTicks * interval) coordinator.Forgive(late);
    for (const WorkerId id : coordinator.Tick()) LOG_WARN("worker {} has fallen silent and counts as dead", id.value);
    return RunTicks(coordinator, timer, interval);
  });
}

}  // namespace baton
