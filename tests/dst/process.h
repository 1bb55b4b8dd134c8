// One rank of the simulated cluster: the classes that Rank builds (app/rank.cc), in the order in which it builds and ends them, on a
// simulated network, wire, disk and time. Threads are the world's events: an engine's steps, a pump's turns, a store's I/O.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/cluster_backend.h"
#include "base/metrics.h"
#include "coordinator/coordinator.h"
#include "kvstore/hold_table.h"
#include "model/model.h"
#include "protocol/node.h"
#include "tests/dst/sim_network.h"
#include "tests/dst/sim_store.h"
#include "tests/dst/sim_wire.h"
#include "transport/endpoint.h"
#include "worker/decode_service.h"
#include "worker/prefill_service.h"

namespace baton::dst {

/// What all ranks of a cluster share.
struct ClusterSetup {
  KvLayout layout{.layers = 2, .kv_heads = 1, .head_dim = 4, .block_tokens = 4, .dtype = KvDtype::kF32};
  uint32_t vocab = 50;
  double heartbeat_s = 0.2, dead_after_s = 2, connect_timeout_s = 2, transfer_timeout_s = 4, settle_s = 1;
  double step_s = 0.004;  // of an engine
  uint32_t pool_blocks = 64, store_blocks = 200, max_running = 8, step_token_budget = 64, prefill_chunk_tokens = 16;
  uint32_t local_prefill_tokens = 8;
  std::string coordinator;  // its host
};

class Process {
 public:
  /// Starts on `host`, whose life is new. All references outlive it.
  Process(World& world, SimNetwork& network, SimFabric& fabric, Host& host, Disk& disk, const ClusterSetup& setup, std::vector<std::string> roles);
  /// Ends as Rank's destructor does; where the host was killed before, nobody hears of it.
  ~Process() noexcept;
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  bool Plays(std::string_view role) const;
  bool ready() const { return ready_; }
  /// The rank gives up, as one whose coordinator cannot be reached does; whoever supervises it ends it and starts it again.
  std::function<void()> on_exit;
  Host& host() { return host_; }
  ClusterBackend* backend() { return backend_.get(); }
  Coordinator* coordinator() { return coordinator_.get(); }
  BlockPool* pool() { return pool_.get(); }
  BlockStore* store() { return store_.get(); }
  const MemberInfo& self() const { return session_->self(); }
  /// Streams that its gateway moved.
  uint64_t moves() { return static_cast<uint64_t>(metrics_.Counter("baton_gateway_stream_moves_total", "").Value()); }
  /// What is still in use, for people; empty when nothing is.
  std::string Busy() const;
  /// What can never be: more held than there is. Empty when all is well.
  std::string Broken() const;

 private:
  void Build();
  void Join();
  Status StartTransport();
  void StartWorker(const MemberInfo& self);
  void StartStore(const MemberInfo& self);
  void Announce();
  void Exit(const Status& status);
  void Turn();
  void TurnSoon();
  void Idle();
  MemberSession::Hooks Hooks();
  kj::Promise<Result<wire::Coordinator::Client>> FindCoordinator();

  World& world_;
  SimFabric& fabric_;
  Host& host_;
  Disk& disk_;
  const ClusterSetup& setup_;
  const std::vector<std::string> roles_;
  HostClock clock_;
  Metrics metrics_;
  kj::TimerImpl timer_;
  LoopQueue loop_;
  kj::Own<kj::Network> net_;
  std::unique_ptr<PeerTable> peers_;
  MembershipView members_;
  NodeServices services_;
  std::unique_ptr<NodeServer> server_;
  MemberInfo info_;
  std::unique_ptr<Coordinator> coordinator_;
  kj::Maybe<wire::Coordinator::Client> coordinator_client_;
  kj::Promise<void> ticks_ = nullptr;
  std::unique_ptr<Model> model_;
  std::unique_ptr<BlockPool> pool_, staging_;
  std::optional<WorkerContext> worker_;
  std::optional<TransferContext> transfer_;
  std::unique_ptr<StoreClient> store_client_;
  std::unique_ptr<EngineHost> engine_;
  std::unique_ptr<SimStore> store_;
  std::unique_ptr<HoldTable> holds_;
  std::unique_ptr<SimTasks> io_;
  std::unique_ptr<MemberSession> session_;
  std::unique_ptr<ClusterBackend> backend_;
  TransferIds transfer_ids_;
  Endpoint* endpoint_ = nullptr;  // the pump's
  std::unique_ptr<TransferPump> pump_;
  bool ready_ = false, turn_due_ = false;
  std::unique_ptr<Background> background_ = std::make_unique<Background>("simulated rank");
};

}  // namespace baton::dst
