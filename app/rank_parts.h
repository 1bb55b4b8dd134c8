// The roles of a rank as objects (see rank.h): what each owns, and how it starts and drains.
#pragma once

#include <kj/async-io.h>

#include <atomic>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "app/cluster_backend.h"
#include "app/config.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/task_threads.h"
#include "coordinator/coordinator_service.h"
#include "gateway/gateway.h"
#include "gateway/text_codec.h"
#include "kvstore/block_store.h"
#include "kvstore/store_service.h"
#include "model/model.h"
#include "protocol/member_session.h"
#include "protocol/node.h"
#include "transport/shared_arena.h"
#include "transport/transfer_pump.h"
#include "worker/decode_service.h"
#include "worker/engine_host.h"
#include "worker/prefill_service.h"
#include "worker/store_client.h"

namespace baton {

/// What every role of a rank stands on.
struct RankContext {
  const Config& config;
  kj::AsyncIoContext& io;
  LoopQueue& loop;
  const Clock& clock;
  Metrics& metrics;
  PeerTable& peers;
  MembershipView& members;
  kj::Timer& timer() const { return io.provider->getTimer(); }
};

/// Memory that transports may write to, and the pool in it.
struct PoolMemory {
  SharedArena shared;               // empty where the pool's memory is private
  std::unique_ptr<BlockPool> pool;

  ArenaMemory arena() const { return shared.memory().bytes.empty() ? ArenaMemory{pool->arena(), -1} : shared.memory(); }
};
/// Memory that peers may map, where the transport wants that; else private memory in large pages, which attention reads faster.
/// Errors: kInvalid (fewer than two blocks fit in `bytes`: names the option), kExhausted.
Result<PoolMemory> MakePoolMemory(uint64_t bytes, uint64_t block_bytes, const char* option, std::string_view transport_kind);

/// Arguments of LoadModel and DescribeModel.
LoadOptions ModelLoadOptions(const ModelOptions& options);
ModelIdentity IdentityOf(const ModelInfo& info, const KvLayout& layout, Numerics numerics, const std::string& name);

class CoordinatorRole {
 public:
  CoordinatorRole(RankContext& context, double settle_s);
  wire::Coordinator::Client client() { return client_; }
  /// A member vanished without having said that it leaves.
  bool lost_a_member() const;

 private:
  Coordinator coordinator_;
  wire::Coordinator::Client client_;
  kj::Promise<void> ticks_;
};

/// Prefill and decode: both services run on each worker; the role says what it is routed for.
class WorkerRole {
 public:
  WorkerRole(RankContext& context, std::unique_ptr<Model> model, PoolMemory memory);
  const KvLayout& layout() const { return model_->kv_layout(); }
  uint32_t blocks() const { return static_cast<uint32_t>(memory_.pool->stats().total); }
  ArenaMemory arena() const { return memory_.arena(); }
  void Start(TransferPump& pump, TransferIds& ids, const MemberInfo& self);
  wire::Decode::Client decode() { return decode_; }
  wire::Prefill::Client prefill() { return prefill_; }
  /// Drops the services; calls of theirs must have ended.
  void StopServing();
  void FillLoad(wire::Load::Builder load) const;
  /// Sets the gauges that follow the engine and the pool.
  void RefreshMetrics();
  std::vector<HeldChange> Changes(bool snapshot);
  /// Resolves when no request is open here and what was computed has been written behind.
  kj::Promise<void> Drained();

 private:
  RankContext& context_;
  std::unique_ptr<Model> model_;
  PoolMemory memory_;
  std::optional<WorkerContext> worker_;
  std::unique_ptr<StoreClient> store_;
  std::unique_ptr<EngineHost> engine_;
  wire::Decode::Client decode_ = nullptr;
  wire::Prefill::Client prefill_ = nullptr;
};

class StoreRole {
 public:
  StoreRole(RankContext& context, std::unique_ptr<BlockStore> store, std::unique_ptr<HoldTable> holds, PoolMemory staging);
  ArenaMemory arena() const { return staging_.arena(); }
  void Start(TransferPump& pump, TransferIds& ids, const MemberInfo& self);
  wire::Store::Client client() { return client_; }
  std::vector<HeldChange> Changes(bool snapshot);
  void RefreshMetrics();
  Status Flush() { return store_->Flush(); }

 private:
  RankContext& context_;
  std::unique_ptr<BlockStore> store_;
  std::unique_ptr<HoldTable> holds_;
  PoolMemory staging_;
  std::optional<TransferContext> transfer_;
  std::atomic<bool> expiring_{false};
  std::unique_ptr<TaskThreads> io_;
  std::set<std::string> held_tenants_;  // that have a gauge
  wire::Store::Client client_ = nullptr;
};

/// Errors of opening: as OpenBlockStore's.
Result<std::unique_ptr<StoreRole>> OpenStoreRole(RankContext& context, const ModelIdentity& identity);

/// The key of the tenants' salts.
const std::string& TenantSecret(const Config& config);
/// kInvalid: an entry of gateway.tenants is none.
Result<std::vector<TenantKey>> ReadTenants(const GatewayOptions& options);
std::unique_ptr<ClusterBackend> MakeBackend(RankContext& context, MemberSession& session);

class GatewayRole {
 public:
  GatewayRole(RankContext& context, std::unique_ptr<TextCodec> codec, MemberSession& session, std::vector<TenantKey> tenants);
  /// Binds the HTTP port. Errors: kInvalid or kUnavailable (in use: says which option to change).
  kj::Promise<Status> Listen() { return gateway_.Listen(); }
  /// Resolves once requests can be served.
  kj::Promise<void> Ready() { return backend_->Ready(); }
  std::string url() const;
  const ModelCard& card() const { return backend_->card(); }
  kj::Promise<void> Drained();

 private:
  RankContext& context_;
  std::unique_ptr<TextCodec> codec_;
  std::unique_ptr<ClusterBackend> backend_;
  Gateway gateway_;
};

}  // namespace baton
