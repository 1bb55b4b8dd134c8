#include "app/rank.h"

#include <kj/async-unix.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <thread>

#include "app/held_keys.h"
#include "app/rank_parts.h"
#include "base/log.h"
#include "gateway/model_text_codec.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

constexpr double kFlushTimeoutS = 10;
constexpr auto kWorkersTimeout = 10 * kj::MINUTES;  // workers join once they have loaded the model

bool Plays(const std::vector<std::string>& roles, std::string_view role) { return std::find(roles.begin(), roles.end(), role) != roles.end(); }

/// Runs `work` on a thread of its own; the loop goes on meanwhile.
template <typename T>
kj::Promise<Result<T>> OnThread(LoopQueue& loop, std::function<Result<T>()> work) {
  auto pair = kj::newPromiseAndFulfiller<Result<T>>();
  auto fulfiller = std::make_shared<kj::Own<kj::PromiseFulfiller<Result<T>>>>(kj::mv(pair.fulfiller));
  std::thread([&loop, fulfiller, work = std::move(work)] {
    auto result = std::make_shared<Result<T>>(work());
    loop.Post([fulfiller, result] { (*fulfiller)->fulfill(std::move(*result)); });
  }).detach();
  return kj::mv(pair.promise);
}

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "host";
}

class InspectImpl final : public wire::Inspect::Server {
 public:
  InspectImpl(Metrics& metrics, std::function<void()> refresh) : metrics_(metrics), refresh_(std::move(refresh)) {}
  kj::Promise<void> metrics(MetricsContext context) override {
    refresh_();
    context.getResults().setText(metrics_.Text());
    return kj::READY_NOW;
  }

 private:
  Metrics& metrics_;
  const std::function<void()> refresh_;
};

}  // namespace

class Rank::Impl {
 public:
  explicit Impl(RankSetup setup)
      : setup_(std::move(setup)),
        io_(Prepared()),
        loop_(io_.unixEventPort),
        peers_(std::make_unique<PeerTable>(io_.provider->getNetwork(), io_.provider->getTimer(), setup_.config.cluster.key,
                                           FromSeconds(setup_.config.cluster.connect_timeout_s))),
        context_{setup_.config, io_, loop_, clock_, metrics_, *peers_, members_},
        node_(std::make_unique<NodeServer>(services_, setup_.config.cluster.key)) {}
  ~Impl() noexcept;

  Result<PeerAddress> Listen();
  Status Run(const PeerAddress& coordinator);
  bool lost_a_member() const { return coordinator_ != nullptr && coordinator_->lost_a_member(); }
  bool lost_the_coordinator() const { return coordinator_ == nullptr && session_ != nullptr && session_->was_lost(); }

 private:
  /// Signals must be captured before any thread exists, so that none of them is hit.
  static kj::AsyncIoContext Prepared() {
    std::signal(SIGPIPE, SIG_IGN);
    kj::UnixEventPort::captureSignal(SIGINT);
    kj::UnixEventPort::captureSignal(SIGTERM);
    kj::UnixEventPort::captureSignal(SIGUSR2);
    kj::UnixEventPort::captureSignal(SIGCONT);
    return kj::setupAsyncIo();
  }
  bool plays(std::string_view role) const { return Plays(setup_.roles, role); }
  bool computes() const { return plays("prefill") || plays("decode"); }
  Status Wait(kj::Promise<Status> promise) { return CatchAsStatus(kj::mv(promise)).wait(io_.waitScope); }
  Status Build();
  void RefreshMetrics();
  Status LoadWorker();
  Status Join(const PeerAddress& coordinator);
  Status StartTransport();
  kj::Promise<void> Everybody(kj::TimePoint deadline);
  void AnnounceWhenReady();
  kj::Promise<int> OnStopSignal();
  kj::Promise<int> OnLauncherStops();
  kj::Promise<void> Stopped();
  Status RunJob();
  void Drain();
  kj::Promise<void> OthersGone(bool workers_only, kj::TimePoint alone_at, kj::TimePoint deadline);
  void Within(double seconds, kj::Promise<void> promise, const char* what);

  const RankSetup setup_;
  const SystemClock clock_;
  Metrics metrics_;
  kj::AsyncIoContext io_;
  LoopQueue loop_;
  std::unique_ptr<PeerTable> peers_;
  MembershipView members_;
  RankContext context_;
  NodeServices services_;
  std::unique_ptr<NodeServer> node_;
  MemberInfo self_;
  ModelIdentity identity_;
  std::unique_ptr<CoordinatorRole> coordinator_;
  std::unique_ptr<StoreRole> store_;
  std::unique_ptr<WorkerRole> worker_;
  HeldKeys held_;
  std::unique_ptr<MemberSession> session_;
  std::unique_ptr<GatewayRole> gateway_;
  std::unique_ptr<ClusterBackend> backend_;  // of a job
  TransferIds transfer_ids_;
  std::unique_ptr<TransferPump> pump_;
  bool asked_to_leave_ = false;
  kj::Own<kj::PromiseFulfiller<void>> leave_;
  Background background_{"rank"};
};

Result<PeerAddress> Rank::Impl::Listen() {
  RETURN_IF_ERROR(node_->Listen(io_.provider->getNetwork(), io_.provider->getTimer(), io_.waitScope, setup_.config.cluster.bind_host, setup_.listen_port));
  self_.name = setup_.name;
  self_.roles = setup_.roles;
  self_.hostname = HostName();
  self_.pid = static_cast<uint32_t>(getpid());
  self_.address = {setup_.config.cluster.bind_host, node_->port()};
  return self_.address;
}

void Rank::Impl::RefreshMetrics() {
  if (worker_ != nullptr) worker_->RefreshMetrics();
  if (store_ != nullptr) store_->RefreshMetrics();
}

Status Rank::Impl::Build() {
  services_.inspect = wire::Inspect::Client(kj::heap<InspectImpl>(metrics_, [this] { RefreshMetrics(); }));
  auto described = DescribeModel(ModelLoadOptions(setup_.config.model));
  RETURN_IF_ERROR(described.status());
  identity_ = IdentityOf(described->info, described->layout, described->numerics, setup_.config.model.name);
  if (plays("coordinator")) {
    coordinator_ = std::make_unique<CoordinatorRole>(context_, setup_.settle_s);
    services_.coordinator = coordinator_->client();
  }
  if (plays("store")) {
    ASSIGN_OR_RETURN(store_, OpenStoreRole(context_, identity_));
  }
  return OkStatus();
}

Status Rank::Impl::LoadWorker() {
  ASSIGN_OR_RETURN(PoolMemory memory, MakePoolMemory(setup_.config.engine.kv_bytes, identity_.block_bytes, "engine.kv_bytes", setup_.config.transport.kind));
  auto model = OnThread<std::unique_ptr<Model>>(loop_, [options = ModelLoadOptions(setup_.config.model)] { return LoadModel(options); }).wait(io_.waitScope);
  RETURN_IF_ERROR(model.status());
  worker_ = std::make_unique<WorkerRole>(context_, std::move(*model), std::move(memory));
  self_.kv_blocks = worker_->blocks();
  return OkStatus();
}

Status Rank::Impl::Join(const PeerAddress& coordinator) {
  MemberSession::FindCoordinator find;
  MemberSession::Hooks hooks;
  if (coordinator_ != nullptr) {
    find = [this]() -> kj::Promise<Result<wire::Coordinator::Client>> { return Result<wire::Coordinator::Client>(coordinator_->client()); };
  } else {
    find = [this, coordinator]() {
      return peers_->Dial(coordinator).then([coordinator](Result<kj::Own<Peer>> peer) -> Result<wire::Coordinator::Client> {
        if (!peer.ok()) return peer.status();
        return (*peer)->coordinator;
      });
    };
    hooks.on_silent = [this, coordinator] { peers_->Forget(coordinator, "the coordinator gave no answer"); };
  }
  if (computes() || store_ != nullptr) self_.model = identity_;
  hooks.load = [this](wire::Load::Builder load) {
    if (worker_ != nullptr) worker_->FillLoad(load);
    RefreshMetrics();
  };
  hooks.changes = [this](bool snapshot) {
    std::vector<HeldChange> changes;
    if (snapshot) held_.Clear();
    if (worker_ != nullptr) held_.Take(HeldKeys::kPool, worker_->Changes(snapshot), changes);
    if (store_ != nullptr) held_.Take(HeldKeys::kStore, store_->Changes(snapshot), changes);
    return changes;
  };
  hooks.on_drain = [this] {
    LOG_INFO("asked to leave the cluster");
    asked_to_leave_ = true;
    if (leave_.get() != nullptr) leave_->fulfill();
  };
  session_ = std::make_unique<MemberSession>(context_.timer(), std::move(find), self_, members_, FromSeconds(setup_.config.cluster.heartbeat_s), std::move(hooks));
  return Wait(session_->Join(FromSeconds(setup_.config.cluster.connect_timeout_s)));
}

Status Rank::Impl::StartTransport() {
  const MemberInfo& self = session_->self();
  transfer_ids_.Restart(self.id, self.incarnation);
  TransportConfig config;
  config.kind = setup_.config.transport.kind;
  config.self = self.id;
  config.incarnation = self.incarnation;
  config.bind_host = setup_.config.cluster.bind_host;
  config.cluster_key = setup_.config.cluster.key;
  config.mpi_communicator = setup_.mpi_communicator;
  if (config.kind == "local") config.hub = MakeLocalHub();
  ASSIGN_OR_RETURN(std::unique_ptr<Transport> transport, MakeTransport(config));
  if (worker_ != nullptr) RETURN_IF_ERROR(transport->Register(worker_->arena()));
  if (store_ != nullptr) RETURN_IF_ERROR(transport->Register(store_->arena()));
  pump_ = std::make_unique<TransferPump>(std::move(transport), clock_);
  members_.Watch([this](const MemberInfo& gone) {
    LOG_INFO("{} (worker {}) is gone", gone.name, gone.id.value);
    pump_->Disconnect(gone.id);
    // A coordinator's successor has its address; whether that answers, the heartbeats find out.
    if (!gone.Has("coordinator")) peers_->Forget(gone.address, "the worker was declared dead");
  });
  if (worker_ != nullptr) {
    worker_->Start(*pump_, transfer_ids_, self);
    services_.decode = worker_->decode();
    services_.prefill = worker_->prefill();
  }
  if (store_ != nullptr) {
    store_->Start(*pump_, transfer_ids_, self);
    services_.store = store_->client();
  }
  return Wait(session_->Announce(pump_->kind(), pump_->address()));
}

/// Until as many members have announced themselves as ranks were started, and each of them knows the others (a heartbeat brings
/// the news: a worker that has not heard of the store would miss and drop). A rank that never comes is not waited for long.
kj::Promise<void> Rank::Impl::Everybody(kj::TimePoint deadline) {
  if (members_.all().size() >= setup_.ranks || context_.timer().now() >= deadline) {
    if (setup_.ranks == 1) return kj::READY_NOW;
    return context_.timer().afterDelay(static_cast<int64_t>(1.5e9 * setup_.config.cluster.heartbeat_s) * kj::NANOSECONDS);
  }
  return context_.timer().afterDelay(10 * kj::MILLISECONDS).then([this, deadline]() { return Everybody(deadline); });
}

void Rank::Impl::AnnounceWhenReady() {
  const auto limit = static_cast<int64_t>(setup_.config.cluster.connect_timeout_s * 1e9) * kj::NANOSECONDS;
  background_.Add(gateway_->Ready().then([this, limit]() { return Everybody(context_.timer().now() + limit); }).then([this]() {
    const std::string url = gateway_->url();
    LOG_INFO("ready: {} at {}", gateway_->card().id, url);
    if (!setup_.announce_url) return;
    std::printf("Baton serves %s at %s\n", gateway_->card().id.c_str(), url.c_str());
    std::fflush(stdout);
  }));
}

/// SIGINT, SIGTERM, or SIGUSR2 (which mpirun passes on at once). mpirun itself, told to stop, first sends SIGCONT, waits
/// (odls_base_sigkill_timeout), sends SIGTERM, waits, sends SIGKILL: its SIGCONT is taken as the word to drain already.
kj::Promise<int> Rank::Impl::OnStopSignal() {
  const auto on = [this](int number) { return io_.unixEventPort.onSignal(number).then([](siginfo_t&& info) { return info.si_signo; }); };
  return on(SIGTERM).exclusiveJoin(on(SIGINT)).exclusiveJoin(on(SIGUSR2)).exclusiveJoin(OnLauncherStops());
}

kj::Promise<int> Rank::Impl::OnLauncherStops() {
  return io_.unixEventPort.onSignal(SIGCONT).then([this](siginfo_t&& info) -> kj::Promise<int> {
    if (setup_.launched_by_mpirun && info.si_pid == getppid()) return info.si_signo;
    return OnLauncherStops();  // somebody else lets a stopped worker go on
  });
}

/// A signal, or an administrator's word.
kj::Promise<void> Rank::Impl::Stopped() {
  auto pair = kj::newPromiseAndFulfiller<void>();
  leave_ = kj::mv(pair.fulfiller);
  if (asked_to_leave_) return kj::READY_NOW;
  auto signal = OnStopSignal().then([](int number) { LOG_INFO("signal {} ({}): draining", number, strsignal(number)); });
  return signal.exclusiveJoin(kj::mv(pair.promise));
}

Status Rank::Impl::RunJob() {
  const kj::TimePoint limit = context_.timer().now() + kWorkersTimeout;
  auto ready = backend_->Ready().then([this, limit]() { return Everybody(limit); });
  auto done = context_.timer().timeoutAt(limit, kj::mv(ready)).then([this]() { return setup_.job->Run(context_, *backend_); });
  const Status status = Wait(done.exclusiveJoin(Stopped().then([]() { return OkStatus(); })));
  for (const auto& [id, member] : members_.all()) {
    if (id != session_->self().id) background_.Add(backend_->Drain(id).ignoreResult());
  }
  return status;
}

void Rank::Impl::Within(double seconds, kj::Promise<void> promise, const char* what) {
  const auto limit = static_cast<int64_t>(seconds * 1e9) * kj::NANOSECONDS;
  auto problem = kj::runCatchingExceptions([&]() { context_.timer().timeoutAfter(limit, kj::mv(promise)).wait(io_.waitScope); });
  KJ_IF_MAYBE(e, problem) { LOG_WARN("draining: {} did not end in {} s ({})", what, seconds, e->getDescription().cStr()); }
}

/// Until the other members (or the workers among them) have left. Where nobody else drains, this rank leaves alone and does
/// not wait for them longer than `alone_at`.
kj::Promise<void> Rank::Impl::OthersGone(bool workers_only, kj::TimePoint alone_at, kj::TimePoint deadline) {
  bool others = false, draining = false;
  for (const auto& [id, member] : members_.all()) {
    if (member.name == self_.name || (workers_only && !member.Has("prefill") && !member.Has("decode"))) continue;
    others = true;
    draining = draining || member.draining;
  }
  const auto now = context_.timer().now();
  if (!others || now >= deadline || (!draining && now >= alone_at) || (coordinator_ == nullptr && !session_->connected())) return kj::READY_NOW;
  return context_.timer().afterDelay(20 * kj::MILLISECONDS).then([this, workers_only, alone_at, deadline]() { return OthersGone(workers_only, alone_at, deadline); });
}

void Rank::Impl::Drain() {
  const double limit = setup_.config.gateway.drain_timeout_s;
  const auto now = context_.timer().now();
  const auto deadline = now + static_cast<int64_t>(limit * 1e9) * kj::NANOSECONDS;
  session_->SetDraining();
  if (gateway_ != nullptr) Within(limit + 1, gateway_->Drained(), "running answers");
  Within(1, session_->DrainingKnown(), "the coordinator's word");
  if (worker_ != nullptr) Within(limit + 1, worker_->Drained(), "open requests");
  const auto alone_at = context_.timer().now() + 500 * kj::MILLISECONDS;
  if (store_ != nullptr) {
    Within(limit + 1, OthersGone(true, alone_at, deadline), "the workers");
    auto flushed = OnThread<bool>(loop_, [store = store_.get()]() -> Result<bool> {
      RETURN_IF_ERROR(store->Flush());
      return true;
    });
    Within(kFlushTimeoutS, flushed.then([](Result<bool> done) {
      if (!done.ok()) LOG_ERROR("the store could not flush: {}", done.status().ToString());
    }), "the store's flush");
  }
  if (coordinator_ != nullptr) Within(limit + 1, OthersGone(false, alone_at, deadline), "the other ranks");
}

Status Rank::Impl::Run(const PeerAddress& coordinator) {
  RETURN_IF_ERROR(Build());
  if (computes()) RETURN_IF_ERROR(LoadWorker());
  RETURN_IF_ERROR(Join(coordinator));
  if (plays("gateway")) {
    ASSIGN_OR_RETURN(std::unique_ptr<TextCodec> codec, LoadTextCodec(setup_.config.model.path, clock_));
    ASSIGN_OR_RETURN(std::vector<TenantKey> tenants, ReadTenants(setup_.config.gateway));
    gateway_ = std::make_unique<GatewayRole>(context_, std::move(codec), *session_, std::move(tenants));
    RETURN_IF_ERROR(Wait(gateway_->Listen()));
  }
  RETURN_IF_ERROR(StartTransport());
  if (gateway_ != nullptr) AnnounceWhenReady();
  if (setup_.job != nullptr) backend_ = MakeBackend(context_, *session_);
  LOG_INFO("{} is worker {} on {}, transport {}", setup_.name, session_->self().id.value, self_.address.ToString(), pump_->address());
  Status status;
  if (setup_.job != nullptr) status = RunJob();
  else Stopped().wait(io_.waitScope);
  Drain();
  return status;
}

/// First whatever calls into the roles, then the transport stops (its last words run on the loop), then the roles end; calls of theirs
/// that a broken connection did not end still name the pump, so it goes last.
Rank::Impl::~Impl() noexcept {
  const auto problem = kj::runCatchingExceptions([this]() {
    services_ = NodeServices();
    node_ = nullptr;
    gateway_ = nullptr;
    backend_ = nullptr;
    session_ = nullptr;
    if (worker_ != nullptr) worker_->StopServing();
    peers_ = nullptr;
    io_.waitScope.poll();
    if (pump_ != nullptr) pump_->Stop();
    io_.waitScope.poll();
    worker_ = nullptr;
    store_ = nullptr;
    coordinator_ = nullptr;
    io_.waitScope.poll();
    pump_ = nullptr;
  });
  KJ_IF_MAYBE(e, problem) { LOG_ERROR("ending: {}", kj::str(*e).cStr()); }
}

Rank::Rank(RankSetup setup) : impl_(std::make_unique<Impl>(std::move(setup))) {}
Rank::~Rank() = default;
Result<PeerAddress> Rank::Listen() { return impl_->Listen(); }
Status Rank::Run(const PeerAddress& coordinator) { return impl_->Run(coordinator); }
bool Rank::lost_a_member() const { return impl_->lost_a_member(); }
bool Rank::lost_the_coordinator() const { return impl_->lost_the_coordinator(); }

}  // namespace baton
