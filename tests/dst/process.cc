#include "tests/dst/process.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "coordinator/coordinator_service.h"
#include "kvstore/store_service.h"
#include "protocol/wire_status.h"

namespace baton::dst {
namespace {

constexpr double kTurnS = 0.00005;      // from a wake to the pump's turn
constexpr double kBusyTurnS = 0.02;     // while transfers run, whose deadlines it must see
constexpr double kIdleTurnS = 0.1;

/// An engine's thread, played by the world.
class EngineDrive {
 public:
  EngineDrive(World& world, Host& host, double step_s, Engine& engine) : world_(world), host_(host), step_s_(step_s), engine_(engine) { Next(step_s_); }
  ~EngineDrive() {
    *alive_ = false;
    engine_.CancelAll();
    while (engine_.Step()) {
    }
  }

 private:
  void Next(double delay_s) {
    world_.AfterOn(host_, delay_s * world_.Between(0.5, 1.5), [this, alive = alive_] {
      if (!*alive) return;
      const bool busy = engine_.Step();
      idle_ = busy ? 0 : std::min(idle_ + 1, 4);
      Next(step_s_ * (1 + idle_));
    });
  }

  World& world_;
  Host& host_;
  const double step_s_;
  Engine& engine_;
  int idle_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

ModelIdentity IdentityOf(const Model& model) {
  ModelIdentity identity;
  identity.model_name = "fake";
  identity.kv_layout = model.kv_layout().ToString();
  identity.numerics = "f32";
  identity.kv_dtype = "f32";
  identity.fingerprint = model.info().fingerprint;
  identity.block_tokens = model.kv_layout().block_tokens;
  identity.block_bytes = model.kv_layout().BlockBytes();
  identity.vocab = model.info().vocab;
  identity.max_positions = model.info().max_positions;
  identity.eos_ids = model.info().eos_ids;
  return identity;
}

}  // namespace

Process::Process(World& world, SimNetwork& network, SimFabric& fabric, Host& host, Disk& disk, const ClusterSetup& setup, std::vector<std::string> roles)
    : world_(world),
      fabric_(fabric),
      host_(host),
      disk_(disk),
      setup_(setup),
      roles_(std::move(roles)),
      clock_(world, host),
      timer_(world.kj_now()),
      net_(network.Of(host)),
      peers_(std::make_unique<PeerTable>(*net_, timer_, "key", FromSeconds(setup.connect_timeout_s))),
      server_(std::make_unique<NodeServer>(services_, "key")) {
  host_.timer = &timer_;
  Build();
  session_ = std::make_unique<MemberSession>(timer_, [this] { return FindCoordinator(); }, info_, members_, FromSeconds(setup_.heartbeat_s), Hooks());
  if (Plays("gateway")) {
    backend_ = std::make_unique<ClusterBackend>(ClusterBackendConfig{.tenant_secret = "secret"}, timer_, clock_, metrics_, *peers_, *session_, members_);
    background_->Add(backend_->Ready());
  }
  Join();
}

Process::~Process() noexcept {
  const auto problem = kj::runCatchingExceptions([this]() {
    background_ = nullptr;  // joining, announcing: it names the session
    services_ = NodeServices();
    server_ = nullptr;
    backend_ = nullptr;
    session_ = nullptr;
    peers_ = nullptr;
    world_.scope().poll();
    endpoint_ = nullptr;
    if (pump_ != nullptr) pump_->Stop();
    world_.scope().poll();
    engine_ = nullptr;
    store_client_ = nullptr;
    io_ = nullptr;
    world_.scope().poll();
    holds_ = nullptr;
    store_ = nullptr;
    ticks_ = nullptr;
    coordinator_client_ = nullptr;
    world_.scope().poll();
    coordinator_ = nullptr;
    world_.scope().poll();
    pump_ = nullptr;
  });
  KJ_IF_MAYBE(e, problem) { LOG_ERROR("ending {}: {}", host_.name, kj::str(*e).cStr()); }
  host_.timer = nullptr;
}

bool Process::Plays(std::string_view role) const { return std::find(roles_.begin(), roles_.end(), role) != roles_.end(); }

void Process::Build() {
  CHECK(server_->Listen(*net_, timer_, world_.scope(), host_.name).ok());
  info_.name = host_.name;
  info_.roles = roles_;
  info_.hostname = host_.name;
  info_.address = {host_.name, server_->port()};
  model_ = MakeFakeModel(setup_.vocab, setup_.layout);
  const size_t block_bytes = setup_.layout.BlockBytes();
  if (Plays("coordinator")) {
    CoordinatorConfig config;
    config.membership.dead_after_s = setup_.dead_after_s;
    if (host_.life > 1) config.membership.settle_s = setup_.settle_s;
    config.router.local_prefill_tokens = setup_.local_prefill_tokens;
    coordinator_ = std::make_unique<Coordinator>(config, clock_, metrics_);
    wire::Coordinator::Client client = kj::heap<CoordinatorService>(*coordinator_, metrics_, timer_);
    coordinator_client_ = client;
    services_.coordinator = client;
    ticks_ = RunTicks(*coordinator_, timer_, FromSeconds(setup_.dead_after_s / 6)).eagerlyEvaluate(nullptr);
  }
  const bool computes = Plays("prefill") || Plays("decode");
  if (computes) {
    pool_ = std::move(*BlockPool::Create(setup_.pool_blocks, block_bytes));
    info_.kv_blocks = setup_.pool_blocks;
  }
  if (Plays("store")) {
    BlockStoreConfig config;
    config.memory_bytes = setup_.store_blocks * block_bytes;
    config.block_bytes = block_bytes;
    store_ = std::make_unique<SimStore>(world_, host_, disk_, config, clock_);
    staging_ = std::move(*BlockPool::Create(32, block_bytes));
  }
  if (computes || store_ != nullptr) info_.model = IdentityOf(*model_);
}

kj::Promise<Result<wire::Coordinator::Client>> Process::FindCoordinator() {
  KJ_IF_MAYBE(client, coordinator_client_) { return Result<wire::Coordinator::Client>(*client); }
  return peers_->Dial({setup_.coordinator, 1}).then([](Result<kj::Own<Peer>> peer) -> Result<wire::Coordinator::Client> {
    if (!peer.ok()) return peer.status();
    return (*peer)->coordinator;
  });
}

MemberSession::Hooks Process::Hooks() {
  MemberSession::Hooks hooks;
  hooks.load = [this](wire::Load::Builder out) {
    if (engine_ == nullptr) return;
    const EngineLoad load = engine_->load();
    const BlockPoolStats pool = pool_->stats();
    out.setRunning(load.running);
    out.setWaiting(load.waiting);
    out.setQueuedPrefillTokens(load.queued_prefill_tokens);
    out.setPrefillTokensPerS(setup_.prefill_chunk_tokens / setup_.step_s);  // a step takes no virtual time: what the clock would have said
    out.setDecodeStepS(setup_.step_s);
    out.setFreeBlocks(static_cast<uint32_t>(pool.free + pool.cached));
    out.setTotalBlocks(static_cast<uint32_t>(pool.total));
  };
  if (!Plays("coordinator")) {
    hooks.on_silent = [this] { peers_->Forget({setup_.coordinator, 1}, "the coordinator gave no answer"); };
  }
  hooks.on_drain = [this] { Exit(AbortedError("it was asked to leave")); };
  hooks.changes = [this](bool snapshot) {
    std::vector<HeldChange> changes;
    const auto take = [&](auto& holder) {
      const auto events = holder.DrainEvents();
      if (snapshot) {
        for (const BlockKey& key : holder.Keys()) changes.push_back({true, key});
      } else {
        for (const BlockEvent& event : events) changes.push_back({event.added, event.key});
      }
    };
    if (pool_ != nullptr) take(*pool_);
    if (store_ != nullptr) take(*store_);
    return changes;
  };
  return hooks;
}

void Process::Join() {
  background_->Add(session_->Join(FromSeconds(setup_.connect_timeout_s)).then([this](Status status) {
    if (status.ok()) status = StartTransport();
    if (status.ok()) Announce();
    else Exit(status);
  }));
}

void Process::Exit(const Status& status) {
  LOG_WARN("{} ends: {}", host_.name, status.ToString());
  world_.AfterOn(host_, 0, [this] { on_exit(); });
}

Status Process::StartTransport() {
  const MemberInfo& self = session_->self();
  transfer_ids_.Restart(self.id, self.incarnation);
  TransportConfig config;
  config.self = self.id;
  config.incarnation = self.incarnation;
  config.hold = std::chrono::seconds(3);
  auto endpoint = std::make_unique<Endpoint>(config, 512, clock_);
  endpoint->Start(std::make_unique<SimWire>(fabric_, host_, self.id, self.incarnation, endpoint->host(), [this] { TurnSoon(); }));
  if (pool_ != nullptr) RETURN_IF_ERROR(endpoint->Register({pool_->arena(), -1}));
  if (staging_ != nullptr) RETURN_IF_ERROR(endpoint->Register({staging_->arena(), -1}));
  endpoint_ = endpoint.get();
  pump_ = std::make_unique<TransferPump>(std::move(endpoint), clock_, TransferPump::NoThread());
  members_.Watch([this](const MemberInfo& gone) {
    LOG_INFO("{}: {} (worker {}) is gone", host_.name, gone.name, gone.id.value);
    pump_->Disconnect(gone.id);
    if (!gone.Has("coordinator")) peers_->Forget(gone.address, "the worker was declared dead");
  });
  if (pool_ != nullptr) StartWorker(self);
  if (store_ != nullptr) StartStore(self);
  Idle();
  return OkStatus();
}

void Process::StartWorker(const MemberInfo& self) {
  worker_.emplace(WorkerContext{{loop_, clock_, *pool_, *pump_, transfer_ids_, FromSeconds(setup_.transfer_timeout_s), self.id, self.incarnation},
                                timer_, metrics_, *peers_, members_, setup_.layout});
  store_client_ = std::make_unique<StoreClient>(*worker_);
  EngineConfig engine;
  engine.max_running = setup_.max_running;
  engine.step_token_budget = setup_.step_token_budget;
  engine.prefill_chunk_tokens = setup_.prefill_chunk_tokens;
  engine_ = std::make_unique<EngineHost>(
      engine, *model_, *pool_, clock_, loop_, [this](SealedBlock block, const BlockKey& first) { store_client_->PutBehind(std::move(block), first); },
      [this](std::vector<BlockKey> chain, size_t have) { return store_client_->FetchIfSooner(std::move(chain), have, setup_.prefill_chunk_tokens / setup_.step_s); },
      [this](Engine& e) { return std::make_shared<EngineDrive>(world_, host_, setup_.step_s, e); });
  services_.decode = wire::Decode::Client(kj::heap<DecodeService>(*worker_, *engine_, *store_client_));
  services_.prefill = wire::Prefill::Client(kj::heap<PrefillService>(*worker_, *engine_, *store_client_));
}

void Process::StartStore(const MemberInfo& self) {
  io_ = std::make_unique<SimTasks>(world_, host_);
  holds_ = std::make_unique<HoldTable>(*store_, clock_, HoldLimits{});
  transfer_.emplace(TransferContext{loop_, clock_, *staging_, *pump_, transfer_ids_, FromSeconds(setup_.transfer_timeout_s), self.id, self.incarnation});
  services_.store = wire::Store::Client(kj::heap<StoreService>(*transfer_, *store_, *holds_, *io_));
}

void Process::Announce() {
  background_->Add(session_->Announce(pump_->kind(), pump_->address()).then([this](Status status) {
    ready_ = status.ok();
    if (!ready_) Exit(status);
  }));
}

void Process::Turn() {
  turn_due_ = false;
  if (pump_ == nullptr) return;
  if (pump_->Turn() > 0) TurnSoon();
}

void Process::TurnSoon() {
  if (std::exchange(turn_due_, true)) return;
  world_.AfterOn(host_, kTurnS, [this] { Turn(); });
}

/// Looks at deadlines now and then.
void Process::Idle() {
  const TransportStats stats = endpoint_->stats();
  world_.AfterOn(host_, stats.receiving + stats.sending > 0 ? kBusyTurnS : kIdleTurnS, [this] {
    Turn();
    Idle();
  });
}

std::string Process::Busy() const {
  std::string busy;
  const auto note = [&](const char* what, size_t n) {
    if (n > 0) busy += fmt::format("{}{} {}", busy.empty() ? "" : ", ", n, what);
  };
  if (pool_ != nullptr) note("blocks referenced", pool_->stats().referenced);
  if (staging_ != nullptr) note("staging blocks referenced", staging_->stats().referenced);
  if (engine_ != nullptr) note("engine requests", engine_->open_requests());
  if (engine_ != nullptr) note("sequences", engine_->load().running + engine_->load().waiting);
  if (worker_) note("open calls", worker_->open_calls);
  if (endpoint_ != nullptr) note("transfers received", endpoint_->stats().receiving);
  if (endpoint_ != nullptr) note("transfers sent", endpoint_->stats().sending);
  return busy.empty() ? busy : fmt::format("{}: {}", host_.name, busy);
}

std::string Process::Broken() const {
  for (const BlockPool* pool : {pool_.get(), staging_.get()}) {
    if (pool == nullptr) continue;
    const BlockPoolStats s = pool->stats();
    if (s.referenced + s.cached + s.free != s.total) return fmt::format("{}: {} + {} + {} blocks of {}", host_.name, s.referenced, s.cached, s.free, s.total);
  }
  if (store_ != nullptr && store_->stats().bytes_memory > setup_.store_blocks * setup_.layout.BlockBytes()) return host_.name + ": the store is over its quota";
  if (engine_ != nullptr && engine_->load().running > setup_.max_running) return host_.name + ": more sequences run than may";
  return {};
}

}  // namespace baton::dst
