#include "app/rank_parts.h"

#include <algorithm>
#include <filesystem>

#include "app/build_info.h"
#include "base/log.h"
#include "base/random.h"
#include "kvstore/store_identity.h"

namespace baton {
namespace {

constexpr uint64_t kStagingBytes = 64ull << 20;  // of puts under way in a store
constexpr unsigned kStoreIoThreads = 2;

kj::Promise<void> PollUntil(kj::Timer& timer, std::function<bool()> condition) {
  if (condition()) return kj::READY_NOW;
  return timer.afterDelay(10 * kj::MILLISECONDS).then([&timer, condition = std::move(condition)]() mutable { return PollUntil(timer, std::move(condition)); });
}

CoordinatorConfig MakeCoordinatorConfig(const Config& config, double settle_s) {
  CoordinatorConfig out;
  out.membership.settle_s = settle_s;
  out.membership.stuck_after_s = config.cluster.stuck_after_s;
  out.membership.dead_after_s = config.cluster.dead_after_s;
  auto policy = ParseRoutePolicy(config.router.policy);
  CHECK(policy.ok());  // the option table allows no other names
  out.router.policy = *policy;
  out.router.local_prefill_tokens = config.router.local_prefill_tokens;
  out.router.prefill_chunk_tokens = config.engine.prefill_chunk_tokens;
  out.admission.max_wait_s = config.router.max_wait_s;
  out.admission.hold_above_s = config.router.hold_above_s;
  out.admission.tenant_in_flight = config.router.tenant_in_flight;
  return out;
}

}  // namespace

Result<PoolMemory> MakePoolMemory(uint64_t bytes, uint64_t block_bytes, const char* option, std::string_view transport_kind) {
  const uint64_t blocks = bytes / block_bytes;
  if (blocks < 2) return InvalidError("{} of {} bytes holds fewer than two KV blocks of {} bytes; give at least {}", option, bytes, block_bytes, 2 * block_bytes);
  PoolMemory memory;
  BlockPoolOptions options;
  if (transport_kind == "auto" || transport_kind == "shm") {
    ASSIGN_OR_RETURN(memory.shared, MakeSharedArena(blocks * block_bytes));
    options.memory = memory.shared.memory().bytes;
  } else {
    options.huge_pages = true;
  }
  ASSIGN_OR_RETURN(memory.pool, BlockPool::Create(blocks, block_bytes, options));
  return Result<PoolMemory>(std::move(memory));
}

LoadOptions ModelLoadOptions(const ModelOptions& options) {
  LoadOptions load;
  load.path = options.path;
  load.numerics = options.numerics;
  load.kv_dtype = options.kv_dtype;
  load.block_tokens = options.block_tokens;
  load.threads = options.threads;
  load.isa = options.isa;
  load.device = options.device;
  return load;
}

ModelIdentity IdentityOf(const ModelInfo& info, const KvLayout& layout, Numerics numerics, const std::string& name) {
  ModelIdentity identity;
  identity.model_name = name.empty() ? info.name : name;
  identity.kv_layout = layout.ToString();
  identity.numerics = std::string(NumericsName(numerics));
  identity.kv_dtype = std::string(KvDtypeName(layout.dtype));
  identity.fingerprint = info.fingerprint;
  identity.block_tokens = layout.block_tokens;
  identity.block_bytes = layout.BlockBytes();
  identity.vocab = info.vocab;
  identity.max_positions = info.max_positions;
  identity.eos_ids = info.eos_ids;
  return identity;
}

CoordinatorRole::CoordinatorRole(RankContext& context, double settle_s)
    : coordinator_(MakeCoordinatorConfig(context.config, settle_s), context.clock, context.metrics),
      client_(kj::heap<CoordinatorService>(coordinator_, context.metrics, context.timer())),
      ticks_(RunTicks(coordinator_, context.timer(), FromSeconds(context.config.cluster.dead_after_s / 24)).eagerlyEvaluate([](kj::Exception&& e) {
        LOG_ERROR("the coordinator's clock stopped: {}", e.getDescription().cStr());
      })) {}

bool CoordinatorRole::lost_a_member() const {
  const auto& members = coordinator_.membership().members();
  return std::any_of(members.begin(), members.end(), [](const auto& entry) { return !entry.second.alive && !entry.second.info.draining; });
}

WorkerRole::WorkerRole(RankContext& context, std::unique_ptr<Model> model, PoolMemory memory)
    : context_(context), model_(std::move(model)), memory_(std::move(memory)) {}

void WorkerRole::Start(TransferPump& pump, TransferIds& ids, const MemberInfo& self) {
  const Config& config = context_.config;
  worker_.emplace(WorkerContext{{context_.loop, context_.clock, *memory_.pool, pump, ids, FromSeconds(config.transport.transfer_timeout_s), self.id,
                                 self.incarnation},
                                context_.timer(), context_.metrics, context_.peers, context_.members, layout()});
  store_ = std::make_unique<StoreClient>(*worker_);
  EngineConfig engine;
  engine.max_running = config.engine.max_running;
  engine.max_waiting = config.engine.max_waiting;
  engine.step_token_budget = config.engine.step_token_budget;
  engine.speculative_tokens = config.engine.speculative_tokens;
  engine.prefill_slowdown = config.engine.prefill_slowdown;
  engine.prefill_chunk_tokens = config.engine.prefill_chunk_tokens;
  engine_ = std::make_unique<EngineHost>(engine, *model_, *memory_.pool, context_.clock, context_.loop,
                                         [this](SealedBlock block, const BlockKey& first) { store_->PutBehind(std::move(block), first); },
                                         [this](std::vector<BlockKey> chain, size_t have) {
                                           return store_->FetchIfSooner(std::move(chain), have, engine_->load().prefill_tokens_per_s);
                                         });
  decode_ = kj::heap<DecodeService>(*worker_, *engine_, *store_);
  prefill_ = kj::heap<PrefillService>(*worker_, *engine_, *store_);
}

void WorkerRole::StopServing() {
  decode_ = nullptr;
  prefill_ = nullptr;
}

void WorkerRole::FillLoad(wire::Load::Builder out) const {
  if (engine_ == nullptr) return;
  const EngineLoad load = engine_->load();
  const BlockPoolStats pool = memory_.pool->stats();
  out.setRunning(load.running);
  out.setWaiting(load.waiting);
  out.setQueuedPrefillTokens(load.queued_prefill_tokens);
  out.setPrefillTokensPerS(load.prefill_tokens_per_s);
  out.setDecodeStepS(load.decode_step_s);
  out.setFreeBlocks(static_cast<uint32_t>(pool.free + pool.cached));
  out.setTotalBlocks(static_cast<uint32_t>(pool.total));
  out.setTransferBytesPerS(worker_->pump.sent_bytes_per_s());
  out.setStoreBytesPerS(store_->bytes_per_s());
  out.setSteps(load.steps);
  auto cost = out.initStepModel();
  cost.setBaseS(load.step_model.base_s);
  cost.setTokenS(load.step_model.token_s);
  cost.setPairS(load.step_model.pair_s);
  cost.setRowS(load.step_model.row_s);
  const auto paths = worker_->pump.PathSpeeds();
  auto speeds = out.initPaths(static_cast<uint32_t>(paths.size()));
  for (uint32_t i = 0; i < paths.size(); ++i) {
    speeds[i].setPeer(paths[i].first.value);
    speeds[i].setBytesPerS(paths[i].second);
  }
}

void WorkerRole::RefreshMetrics() {
  if (engine_ == nullptr) return;
  const EngineLoad load = engine_->load();
  const BlockPoolStats pool = memory_.pool->stats();
  Metrics& m = context_.metrics;
  m.Gauge("baton_worker_running_sequences", "Sequences in the batch").Set(load.running);
  m.Gauge("baton_worker_waiting_requests", "Requests that wait for the engine").Set(load.waiting);
  m.Gauge("baton_worker_queued_prefill_tokens", "Prompt tokens that are still to be computed").Set(static_cast<double>(load.queued_prefill_tokens));
  m.Gauge("baton_worker_prefill_tokens_per_second", "Measured speed of prefill, smoothed").Set(load.prefill_tokens_per_s);
  m.Gauge("baton_worker_decode_step_seconds", "Measured time of a decode step, smoothed").Set(load.decode_step_s);
  m.Gauge("baton_worker_preemptions", "Requests that lost their blocks to others, since the start").Set(static_cast<double>(load.preemptions));
  m.Gauge("baton_worker_guessed_tokens", "Guessed tokens that were checked, since the start", {{"outcome", "accepted"}}).Set(static_cast<double>(load.accepted_tokens));
  m.Gauge("baton_worker_guessed_tokens", "Guessed tokens that were checked, since the start", {{"outcome", "rejected"}}).Set(static_cast<double>(load.rejected_tokens));
  m.Gauge("baton_worker_kv_blocks", "Blocks of the KV pool by state", {{"state", "referenced"}}).Set(static_cast<double>(pool.referenced));
  m.Gauge("baton_worker_kv_blocks", "Blocks of the KV pool by state", {{"state", "cached"}}).Set(static_cast<double>(pool.cached));
  m.Gauge("baton_worker_kv_blocks", "Blocks of the KV pool by state", {{"state", "free"}}).Set(static_cast<double>(pool.free));
  m.Gauge("baton_worker_kv_evictions", "Cached blocks given up for new ones, since the start").Set(static_cast<double>(pool.evictions));
  m.Gauge("baton_worker_transfer_bytes_per_second", "Measured speed of hand-offs, smoothed").Set(worker_->pump.sent_bytes_per_s());
}

std::vector<HeldChange> WorkerRole::Changes(bool snapshot) {
  std::vector<HeldChange> changes;
  const std::vector<BlockPoolEvent> events = memory_.pool->DrainEvents();
  if (snapshot) {
    for (const BlockKey& key : memory_.pool->Keys()) changes.push_back({true, key});
  } else {
    for (const BlockPoolEvent& event : events) changes.push_back({event.added, event.key});
  }
  return changes;
}

kj::Promise<void> WorkerRole::Drained() {
  return PollUntil(context_.timer(), [this] { return worker_->open_calls == 0 && engine_->open_requests() == 0; }).then([this]() { return store_->Drained(); });
}

StoreRole::StoreRole(RankContext& context, std::unique_ptr<BlockStore> store, std::unique_ptr<HoldTable> holds, PoolMemory staging)
    : context_(context), store_(std::move(store)), holds_(std::move(holds)), staging_(std::move(staging)),
      io_(std::make_unique<TaskThreads>(kStoreIoThreads)) {}

void StoreRole::Start(TransferPump& pump, TransferIds& ids, const MemberInfo& self) {
  transfer_.emplace(TransferContext{context_.loop, context_.clock, *staging_.pool, pump, ids, FromSeconds(context_.config.transport.transfer_timeout_s),
                                    self.id, self.incarnation});
  client_ = kj::heap<StoreService>(*transfer_, *store_, *holds_, *io_);
}

std::vector<HeldChange> StoreRole::Changes(bool snapshot) {
  std::vector<HeldChange> changes;
  const std::vector<BlockStoreEvent> events = store_->DrainEvents();
  if (snapshot) {
    for (const BlockKey& key : store_->Keys()) changes.push_back({true, key});
  } else {
    for (const BlockStoreEvent& event : events) changes.push_back({event.added, event.key});
  }
  return changes;
}

void StoreRole::RefreshMetrics() {
  const BlockStoreStats s = store_->stats();
  const auto set = [&m = context_.metrics](const char* name, const char* help, const char* tier, uint64_t value) {
    m.Gauge(name, help, {{"tier", tier}}).Set(static_cast<double>(value));
  };
  set("baton_store_blocks", "Blocks held", "memory", s.blocks_memory);
  set("baton_store_blocks", "Blocks held", "disk", s.blocks_disk);
  set("baton_store_bytes", "Bytes held", "memory", s.bytes_memory);
  set("baton_store_bytes", "Bytes held", "disk", s.bytes_disk);
  set("baton_store_hits", "Blocks read, since the start", "memory", s.hits_memory);
  set("baton_store_hits", "Blocks read, since the start", "disk", s.hits_disk);
  Metrics& m = context_.metrics;
  m.Gauge("baton_store_corrupt_blocks", "Blocks that did not verify, since the start").Set(static_cast<double>(s.corrupt));
  m.Gauge("baton_store_quarantined_blocks", "Blocks on disk that did not verify and were moved aside, since the start").Set(static_cast<double>(s.quarantined));
  m.Gauge("baton_store_scrubbed_blocks", "Blocks on disk that were read and checked in the background, since the start").Set(static_cast<double>(s.scrubbed));
  m.Gauge("baton_store_evictions", "Blocks given up for new ones, since the start").Set(static_cast<double>(s.evictions));
  m.Gauge("baton_store_evicted_age_seconds", "Age of the block given up last").Set(s.evicted_age_s);
  m.Gauge("baton_store_dirty_blocks", "Blocks taken and not yet on disk").Set(static_cast<double>(s.blocks_dirty));
  m.Gauge("baton_store_pinned_blocks", "Blocks kept from eviction for cache handles").Set(static_cast<double>(s.pinned));
  for (const auto& [tenant, use] : store_->tenants()) {
    m.Gauge("baton_store_tenant_bytes", "Bytes that the blocks of a tenant take", {{"tenant", tenant}}).Set(static_cast<double>(use.bytes));
    m.Gauge("baton_store_tenant_blocks", "Blocks of a tenant", {{"tenant", tenant}}).Set(static_cast<double>(use.blocks));
  }
  if (!expiring_.exchange(true)) {  // holds end in time even if nobody asks for one
    io_->Post([this] {
      holds_->Expire();
      expiring_ = false;
    });
  }
  const auto held = holds_->tenants();
  for (const auto& [tenant, holds] : held) held_tenants_.insert(tenant);
  for (const std::string& tenant : held_tenants_) {  // one whose last handle has gone is shown as 0
    const auto found = held.find(tenant);
    const TenantHolds holds = found == held.end() ? TenantHolds() : found->second;
    m.Gauge("baton_store_held_bytes", "Bytes kept for the cache handles of a tenant", {{"tenant", tenant}}).Set(static_cast<double>(holds.bytes));
    m.Gauge("baton_store_held_caches", "Cache handles of a tenant", {{"tenant", tenant}}).Set(static_cast<double>(holds.records));
  }
}

Result<std::unique_ptr<StoreRole>> OpenStoreRole(RankContext& context, const ModelIdentity& identity) {
  const StoreOptions& options = context.config.store;
  BlockStoreConfig config;
  config.path = options.path;
  config.memory_bytes = options.memory_bytes;
  config.disk_bytes = options.disk_bytes;
  config.block_bytes = identity.block_bytes;
  config.identity = StoreIdentity{identity.fingerprint, identity.numerics, identity.kv_layout}.ToString();
  config.compression = options.compression;
  config.policy = options.policy;
  config.ttl_s = options.ttl_s;
  config.key_file = options.key_file;
  config.scrub_bytes_per_s = options.scrub_bytes_per_s;
  config.tenant_bytes = options.tenant_bytes;
  ASSIGN_OR_RETURN(std::unique_ptr<BlockStore> store, OpenBlockStore(config));
  HoldLimits limits;
  if (!options.path.empty()) limits.folder = options.path + "/handles";
  limits.block_bytes = identity.block_bytes;
  limits.tenant_bytes = options.tenant_hold_bytes;
  auto holds = std::make_unique<HoldTable>(*store, context.clock, std::move(limits));
  RETURN_IF_ERROR(holds->Load());
  const uint64_t staging_bytes = std::max(kStagingBytes, 16 * identity.block_bytes);
  ASSIGN_OR_RETURN(PoolMemory staging, MakePoolMemory(staging_bytes, identity.block_bytes, "the store's staging memory", context.config.transport.kind));
  return std::make_unique<StoreRole>(context, std::move(store), std::move(holds), std::move(staging));
}

namespace {

GatewayConfig MakeGatewayConfig(const GatewayOptions& options, std::vector<TenantKey> tenants) {
  GatewayConfig config;
  config.host = options.host;
  config.port = static_cast<uint16_t>(options.port);
  config.api_keys = options.api_keys;
  config.tenants = std::move(tenants);
  config.cache_ttl_s = options.cache_ttl_s;
  config.admin_key = options.admin_key;
  config.max_connections = options.max_connections;
  config.max_body_bytes = options.max_body_bytes;
  config.drain_timeout_s = options.drain_timeout_s;
  config.version = GetBuildInfo().version;
  config.seed = EntropySeed();
  return config;
}

}  // namespace

const std::string& TenantSecret(const Config& config) {
  return config.gateway.tenant_secret.empty() ? config.cluster.key : config.gateway.tenant_secret;
}

std::unique_ptr<ClusterBackend> MakeBackend(RankContext& context, MemberSession& session) {
  ClusterBackendConfig config;
  config.model_name = context.config.model.name;
  config.tenant_secret = TenantSecret(context.config);
  config.give_up_after_s = context.config.gateway.wait_for_cluster_s;
  return std::make_unique<ClusterBackend>(std::move(config), context.timer(), context.clock, context.metrics, context.peers, session, context.members);
}

Result<std::vector<TenantKey>> ReadTenants(const GatewayOptions& options) {
  std::vector<TenantKey> tenants;
  for (const std::string& text : options.tenants) {
    ASSIGN_OR_RETURN(TenantKey tenant, ParseTenantKey(text));
    tenants.push_back(std::move(tenant));
  }
  return tenants;
}

GatewayRole::GatewayRole(RankContext& context, std::unique_ptr<TextCodec> codec, MemberSession& session, std::vector<TenantKey> tenants)
    : context_(context),
      codec_(std::move(codec)),
      backend_(MakeBackend(context, session)),
      gateway_(context.io.provider->getNetwork(), context.timer(), context.clock, *backend_, *codec_, MakeGatewayConfig(context.config.gateway, std::move(tenants))) {}

std::string GatewayRole::url() const { return fmt::format("http://{}:{}", context_.config.gateway.host, gateway_.port()); }

kj::Promise<void> GatewayRole::Drained() {
  gateway_.StartDrain();
  backend_->SetDraining();
  return gateway_.Drained();
}

}  // namespace baton
