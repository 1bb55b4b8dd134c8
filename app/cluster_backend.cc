#include "app/cluster_backend.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

constexpr kj::Duration kRetry = 50 * kj::MILLISECONDS;
constexpr kj::Duration kMetricsTimeout = 1 * kj::SECONDS;
constexpr kj::Duration kAskTimeout = 2 * kj::SECONDS;  // answers from memory: silence means that the coordinator hangs
constexpr kj::Duration kCheckInterval = 100 * kj::MILLISECONDS;
constexpr kj::Duration kLongestRetry = 1 * kj::SECONDS;
constexpr uint32_t kMaxDeaths = 16; // workers that died under one request: it may be what kills them

}  // namespace

BlockKey TenantRoot(const ModelIdentity& model, const std::string& secret, const std::string& tenant) {
  if (tenant.empty()) return model.Root("");
  return model.Root(HexEncode(HmacSha256(AsBytes(secret), AsBytes(tenant))));
}

struct ClusterBackend::Meters {
  explicit Meters(Metrics& m)
      : moves(m.Counter("baton_gateway_stream_moves_total", "Streams that went on at another worker")),
        route_s(m.Histogram("baton_gateway_route_seconds", "Time the coordinator took to route", LatencyBuckets())) {}
  prometheus::Counter& moves;
  prometheus::Histogram& route_s;
};

/// One request: routed, generated, and moved as often as its worker dies.
class ClusterBackend::Generation final : public GenerationHandle {
 public:
  Generation(ClusterBackend& backend, GenerateRequest request, GenerationSink& sink)
      : backend_(backend), request_(std::move(request)), asked_tokens_(request_.prompt.size()), root_(backend.RootOf(request_.tenant)), sink_(sink),
        begin_(backend.clock_.Now()) {
    running_ = kj::evalLater([this]() { return Attempt(); }).eagerlyEvaluate([this](kj::Exception&& e) { Error(StatusFromException(e), 0); });
  }
  ~Generation() noexcept override {
    if (receiver_.get() != nullptr) receiver_->owner = nullptr;
    if (!told_) Tell(false);
  }

 private:
  /// What a decode worker holds to send tokens; outlives the generation if the worker holds on to it.
  struct Receiver final : public wire::TokenSink::Server, public kj::Refcounted {
    explicit Receiver(Generation* g) : owner(g) {}
    kj::Promise<void> route(RouteContext context) override {
      if (owner != nullptr) owner->OnRoute(ReadStats(context.getParams().getStats()));
      return kj::READY_NOW;
    }
    kj::Promise<void> tokens(TokensContext context) override {
      for (const auto token : context.getParams().getBatch()) {
        if (owner != nullptr) owner->OnToken(ReadToken(token));
      }
      return kj::READY_NOW;
    }
    kj::Promise<void> end(EndContext context) override {
      if (owner != nullptr) owner->OnEnd(ReadReason(context.getParams().getReason()), ReadStats(context.getParams().getStats()));
      return kj::READY_NOW;
    }
    Generation* owner;
  };
  using RouteAnswer = capnp::Response<wire::Coordinator::RouteResults>;

  kj::Promise<void> Attempt();
  kj::Promise<void> OnRouted(RouteAnswer answer);
  kj::Promise<void> GenerateAt(MemberInfo decode, wire::Plan::Reader plan);
  kj::Promise<void> Again(const Status& status, double retry_after_s, kj::Maybe<WorkerId> failed, double patience_s);
  kj::Promise<void> Again(const Status& status, double retry_after_s, kj::Maybe<WorkerId> failed) {
    return Again(status, retry_after_s, failed, backend_.config_.give_up_after_s);
  }
  kj::Promise<void> Died(const Status& status, WorkerId worker);
  kj::Duration Pause();
  bool Complete();
  double Left() const;
  void OnRoute(const RequestStats& stats);
  void OnToken(const TokenEvent& event);
  void OnEnd(FinishReason reason, const RequestStats& stats);
  void Error(const Status& status, double retry_after_s);
  void Tell(bool ok);

  ClusterBackend& backend_;
  GenerateRequest request_;
  const size_t asked_tokens_;  // prompt as the client sent it
  const BlockKey root_;
  GenerationSink& sink_;
  const Instant begin_;
  Instant first_token_{}, waiting_since_{};
  std::vector<WorkerId> avoid_;
  uint32_t sent_ = 0, moves_ = 0, deaths_ = 0, pauses_ = 0;
  TokenId last_ = -1;
  std::string reason_;
  RequestStats known_;
  kj::Own<Receiver> receiver_;
  bool ended_ = false, told_ = false;
  kj::Promise<void> running_ = nullptr;
};

kj::Promise<void> ClusterBackend::Generation::Attempt() {
  if (Complete()) return kj::READY_NOW;
  if (request_.deadline_s > 0 && Left() <= 0) {
    Error(DeadlineError("the request's deadline of {} s passed after {} tokens", request_.deadline_s, sent_), 0);
    return kj::READY_NOW;
  }
  KJ_IF_MAYBE(coordinator, backend_.session_.coordinator()) {
    auto call = coordinator->routeRequest();
    auto query = call.initQuery();
    query.setRequestId(request_.id.value);
    query.setTenant(request_.tenant);
    const std::vector<BlockKey> keys = KeyChain(root_, request_.prompt, backend_.identity_.block_tokens);
    WriteKeys(keys, query.initKeys(static_cast<uint32_t>(keys.size())));
    query.setPromptTokens(static_cast<uint32_t>(request_.prompt.size()));
    query.setMaxTokens(request_.max_tokens);
    query.setPriority(request_.priority);
    auto avoid = query.initAvoid(static_cast<uint32_t>(avoid_.size()));
    for (uint32_t i = 0; i < avoid_.size(); ++i) avoid.set(i, avoid_[i].value);
    query.setMoved(sent_ > 0 || moves_ > 0);
    const Instant asked = backend_.clock_.Now();
    // The request may have to wait for its turn there, but not for a coordinator that the heartbeats have given up.
    auto answer = kj::Promise<RouteAnswer>(call.send()).exclusiveJoin(backend_.CoordinatorLost<RouteAnswer>());
    const kj::Duration limit = static_cast<int64_t>(backend_.config_.give_up_after_s * 1e9) * kj::NANOSECONDS;
    return backend_.timer_.timeoutAfter(limit, kj::mv(answer)).then(
        [this, asked](RouteAnswer answer) {
          backend_.meters_->route_s.Observe(ToSeconds(backend_.clock_.Now() - asked));
          return OnRouted(kj::mv(answer));
        },
        [this](kj::Exception&& e) { return Again(StatusFromException(e).WithContext("the coordinator"), 1, nullptr); });
  }
  return Again(UnavailableError("the coordinator cannot be reached"), 1, nullptr);
}

kj::Promise<void> ClusterBackend::Generation::OnRouted(RouteAnswer answer) {
  const Status status = ReadStatus(answer.getStatus());
  if (!status.ok()) {
    // One that has begun waits for a worker to come back, a new one not so long.
    if (status.code() == StatusCode::kUnavailable) {
      return Again(status, answer.getRetryAfterS(), nullptr, moves_ > 0 ? backend_.config_.give_up_after_s : backend_.config_.wait_for_workers_s);
    }
    Error(status, answer.getRetryAfterS());
    return kj::READY_NOW;
  }
  auto decode = ReadMember(answer.getPlan().getDecode());
  if (!decode.ok()) {
    Error(decode.status(), 0);
    return kj::READY_NOW;
  }
  reason_ = ToString(answer.getPlan().getReason());
  auto plan = answer.getPlan();
  return GenerateAt(std::move(*decode), plan).attach(kj::mv(answer));
}

kj::Promise<void> ClusterBackend::Generation::GenerateAt(MemberInfo decode, wire::Plan::Reader plan) {
  const WorkerId worker = decode.id;
  return backend_.peers_.Dial(decode.address).then([this, plan, worker](Result<kj::Own<Peer>> peer) -> kj::Promise<void> {
    if (!peer.ok()) return Again(peer.status(), 1, worker);
    if (receiver_.get() != nullptr) receiver_->owner = nullptr;
    receiver_ = kj::refcounted<Receiver>(this);
    auto call = (*peer)->decode.generateRequest();
    GenerateRequest request = request_;
    if (request.deadline_s > 0) request.deadline_s = Left();
    WriteRequest(request, root_, call.initRequest());
    call.setPrefill(plan.getPrefill());
    call.setSink(kj::addRef(*receiver_));
    auto sent = (*peer)->Guard(kj::Promise<capnp::Response<wire::Decode::GenerateResults>>(call.send()));
    return sent.then(
        [this, worker](capnp::Response<wire::Decode::GenerateResults> answer) -> kj::Promise<void> {
          const Status status = ReadStatus(answer.getStatus());
          if (ended_) return kj::READY_NOW;
          if (status.ok()) return Again(InternalError("worker {} ended without saying how", worker.value), 0, worker);
          switch (status.code()) {
            case StatusCode::kInvalid:
            case StatusCode::kDeadline: Error(status, 0); return kj::READY_NOW;
            default: return Again(status, 1, worker);
          }
        },
        [this, worker](kj::Exception&& e) { return Died(StatusFromException(e), worker); });
  });
}

kj::Promise<void> ClusterBackend::Generation::Died(const Status& status, WorkerId worker) {
  if (ended_) return kj::READY_NOW;
  if (++deaths_ < kMaxDeaths) return Again(status, 1, worker);
  Error(InternalError("{} workers died while they ran this request; it is not tried again. The last: {}", deaths_, status.message()), 0);
  return kj::READY_NOW;
}

/// Twice as long each time in a row, so that workers that are full or gone are not asked twenty times a second by everybody.
kj::Duration ClusterBackend::Generation::Pause() { return std::min(kLongestRetry, kRetry * (1 << std::min(pauses_++, 8u))); }

/// Goes on elsewhere, or gives up when nobody could be found for too long.
kj::Promise<void> ClusterBackend::Generation::Again(const Status& status, double retry_after_s, kj::Maybe<WorkerId> failed, double patience_s) {
  if (receiver_.get() != nullptr) receiver_->owner = nullptr;
  const Instant now = backend_.clock_.Now();
  bool wait = true;
  KJ_IF_MAYBE(worker, failed) {
    LOG_WARN("request {}: worker {} failed after {} tokens: {}", request_.id.value, worker->value, sent_, status.ToString());
    if (std::find(avoid_.begin(), avoid_.end(), *worker) == avoid_.end()) {
      avoid_.push_back(*worker);
      wait = false;
    }
    ++moves_;
    backend_.meters_->moves.Increment();
  }
  if (waiting_since_ == Instant{}) waiting_since_ = now;
  if (ToSeconds(now - waiting_since_) > patience_s) {
    Error(status, std::max(retry_after_s, 1.0));
    return kj::READY_NOW;
  }
  if (!wait) return kj::evalLater([this]() { return Attempt(); });
  return backend_.timer_.afterDelay(Pause()).then([this]() { return Attempt(); });
}

/// Of the client's deadline, whatever was tried so far: 0 or below when it has passed.
double ClusterBackend::Generation::Left() const { return request_.deadline_s - ToSeconds(backend_.clock_.Now() - begin_); }

/// True when all tokens had come and only the word of the end was lost.
bool ClusterBackend::Generation::Complete() {
  if (sent_ == 0) return false;
  const auto& eos = backend_.identity_.eos_ids;
  const bool stopped = (!request_.ignore_eos && std::find(eos.begin(), eos.end(), last_) != eos.end()) ||
                       std::find(request_.stop_tokens.begin(), request_.stop_tokens.end(), last_) != request_.stop_tokens.end();
  if (!stopped && request_.max_tokens > 0) return false;
  OnEnd(stopped ? FinishReason::kStop : FinishReason::kLength, known_);
  return true;
}

void ClusterBackend::Generation::OnRoute(const RequestStats& stats) {
  RequestStats told = stats;
  told.prompt_tokens = static_cast<uint32_t>(asked_tokens_);
  if (sent_ > 0) {  // moved: what the client was told of the cache stays true
    told.cached_tokens = known_.cached_tokens;
    told.cache_write_tokens = known_.cache_write_tokens;
  }
  told.route = fmt::format("{}; {}", stats.route, reason_);
  if (moves_ > 0) told.route += fmt::format("; moved={}", moves_);
  known_ = told;
  sink_.OnRoute(told);
}

void ClusterBackend::Generation::OnToken(const TokenEvent& event) {
  if (ended_) return;
  if (sent_ == 0) first_token_ = backend_.clock_.Now();
  waiting_since_ = Instant{};
  pauses_ = 0;
  ++sent_;
  last_ = event.token;
  request_.prompt.push_back(event.token);
  ++request_.generated;
  if (request_.max_tokens > 0) --request_.max_tokens;
  sink_.OnToken(event);
}

void ClusterBackend::Generation::OnEnd(FinishReason reason, const RequestStats& stats) {
  if (ended_) return;
  ended_ = true;
  RequestStats told = stats;
  told.prompt_tokens = static_cast<uint32_t>(asked_tokens_);
  told.cached_tokens = known_.cached_tokens;
  told.route = known_.route;
  Tell(reason == FinishReason::kStop || reason == FinishReason::kLength);
  sink_.OnEnd(reason, told);
}

void ClusterBackend::Generation::Error(const Status& status, double retry_after_s) {
  if (ended_) return;
  ended_ = true;
  Tell(false);
  sink_.OnError(status, retry_after_s);
}

/// The coordinator compares what it predicted with what happened.
void ClusterBackend::Generation::Tell(bool ok) {
  told_ = true;
  KJ_IF_MAYBE(coordinator, backend_.session_.coordinator()) {
    auto call = coordinator->finishedRequest();
    const Instant now = backend_.clock_.Now();
    call.setRequestId(request_.id.value);
    call.setTtftS(first_token_ == Instant{} ? 0 : ToSeconds(first_token_ - begin_));
    call.setTotalS(ToSeconds(now - begin_));
    call.setPromptTokens(static_cast<uint32_t>(asked_tokens_));
    call.setCachedTokens(known_.cached_tokens);
    call.setOk(ok);
    call.setQueueS(known_.queue_s);
    call.setPrefillS(known_.prefill_s);
    call.setDecodeS(known_.decode_s);
    call.setGeneratedTokens(sent_);
    call.setMoves(moves_);
    call.send().ignoreResult().detach([](kj::Exception&&) {});  // a lost word costs one sample
  }
}

ClusterBackend::ClusterBackend(ClusterBackendConfig config, kj::Timer& timer, const Clock& clock, Metrics& metrics, PeerTable& peers,
                               MemberSession& session, const MembershipView& members)
    : config_(std::move(config)),
      timer_(timer),
      clock_(clock),
      metrics_(metrics),
      peers_(peers),
      session_(session),
      members_(members),
      caches_(*this, timer, clock, peers, members),
      meters_(std::make_unique<Meters>(metrics)),
      readiness_(UnavailableError("loading: no worker has joined yet")) {}

ClusterBackend::~ClusterBackend() noexcept = default;

kj::Promise<void> ClusterBackend::Ready() {
  return LearnModel().then([this]() -> kj::Promise<void> {
    if (readiness_.ok()) return kj::READY_NOW;
    return timer_.afterDelay(kRetry).then([this]() { return Ready(); });
  });
}

kj::Promise<void> ClusterBackend::LearnModel() {
  KJ_IF_MAYBE(coordinator, session_.coordinator()) {
    return coordinator->cardRequest().send().then(
        [this](capnp::Response<wire::Coordinator::CardResults> answer) {
          readiness_ = ReadStatus(answer.getStatus());
          if (!readiness_.ok()) return;
          auto identity = ReadIdentity(answer.getModel());
          readiness_ = identity.status();
          if (!identity.ok()) return;
          identity_ = std::move(*identity);
          card_.id = config_.model_name.empty() ? identity_.model_name : config_.model_name;
          card_.created_unix_s = static_cast<uint64_t>(clock_.UnixSeconds());
          card_.vocab = identity_.vocab;
          card_.max_positions = identity_.max_positions;
          card_.block_tokens = identity_.block_tokens;
          card_.numerics = identity_.numerics;
          card_.kv_dtype = identity_.kv_dtype;
          card_.fingerprint_hex = HexEncode(identity_.fingerprint);
        },
        [this](kj::Exception&& e) { readiness_ = StatusFromException(e); });
  }
  return kj::READY_NOW;
}

/// Fails once the session has lost the coordinator that it has now.
template <typename T>
kj::Promise<T> ClusterBackend::CoordinatorLost() {
  return timer_.afterDelay(kCheckInterval).then([this]() -> kj::Promise<T> {
    if (!session_.connected()) return KJ_EXCEPTION(DISCONNECTED, "its heartbeats are not answered");
    return CoordinatorLost<T>();
  });
}

std::unique_ptr<GenerationHandle> ClusterBackend::Generate(GenerateRequest request, GenerationSink& sink) {
  return std::make_unique<Generation>(*this, std::move(request), sink);
}

Status ClusterBackend::Health() {
  if (draining_) return UnavailableError("draining");
  if (!readiness_.ok()) return readiness_;
  for (const auto& [id, member] : members_.all()) {
    if (!member.draining && (member.Has("decode") || member.Has("prefill"))) return OkStatus();
  }
  return session_.connected() ? UnavailableError("no prefill or decode worker is alive") : UnavailableError("the coordinator cannot be reached");
}

/// What the coordinator answers to `ask`, or why nobody does: a coordinator that hangs is no reason for a client to.
template <typename T, typename Ask>
kj::Promise<T> ClusterBackend::AskCoordinator(Ask ask) {
  KJ_IF_MAYBE(coordinator, session_.coordinator()) { return CatchAsStatus(timer_.timeoutAfter(kAskTimeout, kj::Promise<T>(ask(*coordinator)))); }
  return T(UnavailableError("the coordinator cannot be reached"));
}

kj::Promise<Result<std::string>> ClusterBackend::ClusterJson() {
  return AskCoordinator<Result<std::string>>([](wire::Coordinator::Client& coordinator) {
    return coordinator.clusterJsonRequest().send().then([](capnp::Response<wire::Coordinator::ClusterJsonResults> r) { return Result<std::string>(ToString(r.getJson())); });
  });
}

kj::Promise<Result<std::string>> ClusterBackend::ExplainRoute(std::vector<TokenId> prompt, uint32_t max_tokens, std::string tenant) {
  return AskCoordinator<Result<std::string>>([&](wire::Coordinator::Client& coordinator) {
    auto call = coordinator.explainRouteRequest();
    auto query = call.initQuery();
    const std::vector<BlockKey> keys = KeyChain(RootOf(tenant), prompt, std::max(1u, identity_.block_tokens));
    WriteKeys(keys, query.initKeys(static_cast<uint32_t>(keys.size())));
    query.setPromptTokens(static_cast<uint32_t>(prompt.size()));
    query.setMaxTokens(max_tokens);
    query.setTenant(tenant);
    return call.send().then([](capnp::Response<wire::Coordinator::ExplainRouteResults> r) { return Result<std::string>(ToString(r.getJson())); });
  });
}

kj::Promise<Result<std::string>> ClusterBackend::ExplainRequest(RequestId request) {
  return AskCoordinator<Result<std::string>>([request](wire::Coordinator::Client& coordinator) {
    auto call = coordinator.explainRequestRequest();
    call.setRequestId(request.value);
    return call.send().then([](capnp::Response<wire::Coordinator::ExplainRequestResults> r) -> Result<std::string> {
      RETURN_IF_ERROR(ReadStatus(r.getStatus()));
      return ToString(r.getJson());
    });
  });
}

kj::Promise<MetricsPage> ClusterBackend::MetricsOf(const MemberInfo& member) {
  auto text = peers_.Dial(member.address).then([](Result<kj::Own<Peer>> peer) -> kj::Promise<std::string> {
    if (!peer.ok()) return std::string();
    auto answer = (*peer)->Guard(kj::Promise<capnp::Response<wire::Inspect::MetricsResults>>((*peer)->inspect.metricsRequest().send()));
    return answer.then([](capnp::Response<wire::Inspect::MetricsResults> r) { return ToString(r.getText()); });
  });
  return timer_.timeoutAfter(kMetricsTimeout, kj::mv(text))
      .catch_([](kj::Exception&&) { return std::string(); })  // a rank that does not answer has no lines on the page
      .then([name = member.name](std::string page) { return MetricsPage{name, std::move(page)}; });
}

kj::Promise<std::string> ClusterBackend::MetricsText() {
  kj::Vector<kj::Promise<MetricsPage>> pages;
  pages.add(MetricsPage{session_.self().name, metrics_.Text()});
  for (const auto& [id, member] : members_.all()) {
    if (id != session_.self().id) pages.add(MetricsOf(member));
  }
  if (pages.size() == 1) return metrics_.Text();
  return kj::joinPromises(pages.releaseAsArray()).then([](kj::Array<MetricsPage> all) { return MergeMetrics({all.begin(), all.end()}); });
}

kj::Promise<Result<HeldBlocks>> ClusterBackend::HoldCache(CacheRecord record, HoldMode mode) {
  if (!readiness_.ok()) return Result<HeldBlocks>(readiness_);  // without the model's identity no key is right
  const BlockKey root = RootOf(record.tenant);
  return caches_.Hold(std::move(record), root, mode);
}

kj::Promise<Result<std::string>> ClusterBackend::ExplainCache(std::vector<TokenId> tokens, std::string tenant) {
  if (!readiness_.ok()) return Result<std::string>(readiness_);
  return caches_.Explain(std::move(tokens), RootOf(tenant));
}

kj::Promise<Status> ClusterBackend::Drain(WorkerId worker) {
  return AskCoordinator<Status>([worker](wire::Coordinator::Client& coordinator) {
    auto call = coordinator.drainRequest();
    call.setWorker(worker.value);
    return call.send().then([](capnp::Response<wire::Coordinator::DrainResults> r) { return ReadStatus(r.getStatus()); });
  });
}

kj::Promise<Status> ClusterBackend::SetRole(WorkerId worker, std::string role) {
  return AskCoordinator<Status>([worker, &role](wire::Coordinator::Client& coordinator) {
    auto call = coordinator.roleRequest();
    call.setWorker(worker.value);
    call.setRole(role);
    return call.send().then([](capnp::Response<wire::Coordinator::RoleResults> r) { return ReadStatus(r.getStatus()); });
  });
}

}  // namespace baton
