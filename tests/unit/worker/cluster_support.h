// Workers and stores of a cluster in one test process: each has its own pool, transport, engine and port, as a rank has. What a
// client hears is recorded, and a prefill worker or a store can be made to misbehave.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/task_threads.h"
#include "engine_support.h"
#include "kvstore/block_store.h"
#include "kvstore/store_service.h"
#include "tests/support/loop_support.h"
#include "worker/decode_service.h"
#include "worker/prefill_service.h"

namespace baton {

/// What the ranks of one test share.
struct TestCluster {
  explicit TestCluster(kj::AsyncIoContext& context) : io(context), loop(context.unixEventPort) {}
  void Join(const MemberInfo& member) {
    members.push_back(member);
    view.Update(members);
  }
  void Leave(WorkerId id) {
    std::erase_if(members, [id](const MemberInfo& m) { return m.id == id; });
    view.Update(members);
  }

  kj::AsyncIoContext& io;
  LoopQueue loop;
  SystemClock clock;
  std::shared_ptr<LocalHub> hub = MakeLocalHub();
  std::vector<MemberInfo> members;
  MembershipView view;
};

struct NodeOptions {
  size_t blocks = 64;
  Duration timeout = std::chrono::seconds(20);
  uint32_t prefill_chunk_tokens = 256;
  uint32_t block_tokens = 4;
};

/// Pool, transport and port of a rank.
struct TransferNode {
  TransferNode(TestCluster& cluster, uint32_t id, const std::string& name, const std::string& role, size_t block_bytes, const NodeOptions& options);
  ~TransferNode();
  TransferContext context() { return {cluster.loop, cluster.clock, *pool, *pump, ids, options.timeout, self.id, self.incarnation}; }
  size_t referenced() const { return pool->stats().referenced; }
  size_t open_transfers() const { return *open; }
  /// Ends the transport; what it still had to say is said on the loop.
  void StopTransport();

  TestCluster& cluster;
  const NodeOptions options;
  MemberInfo self;
  std::unique_ptr<BlockPool> pool;
  std::shared_ptr<std::atomic<size_t>> open = std::make_shared<std::atomic<size_t>>(0);  // transfers the transport knows
  std::unique_ptr<TransferPump> pump;
  TransferIds ids;
  std::unique_ptr<TestNode> node;
};

/// A prefill and decode worker over a watched fake model.
struct TestWorker {
  TestWorker(TestCluster& cluster, uint32_t id, const std::string& name, const NodeOptions& options = {});
  ~TestWorker();
  double Count(const std::string& counter) { return context->metrics.Counter(counter, "").Value(); }
  bool Idle() const { return base.referenced() == 0 && base.open_transfers() == 0 && engine->open_requests() == 0 && context->open_calls == 0; }
  std::string Busy() const;  // says with what

  std::unique_ptr<Model> fake;
  WatchedModel model;
  TransferNode base;
  Metrics metrics;
  std::unique_ptr<PeerTable> peers;
  std::optional<WorkerContext> context;
  std::unique_ptr<StoreClient> store;
  std::unique_ptr<EngineHost> engine;
  kj::Maybe<wire::Decode::Client> decode;
  kj::Maybe<wire::Prefill::Client> prefill;
};

struct TestStore {
  TestStore(TestCluster& cluster, uint32_t id, const std::string& name, const NodeOptions& options = {});
  ~TestStore();

  TransferNode base;
  std::unique_ptr<BlockStore> blocks;
  std::unique_ptr<HoldTable> holds;
  std::unique_ptr<TaskThreads> io = std::make_unique<TaskThreads>(2);
  TransferContext context;
};

/// What a client heard of one generate call.
struct Heard {
  std::vector<TokenEvent> tokens;
  std::vector<RequestStats> routes;
  std::optional<FinishReason> end;
  RequestStats stats;
  std::function<void()> on_token;
  bool gone = false;  // the worker let go of the sink

  Answer AsAnswer() const;
};
wire::TokenSink::Client MakeSink(std::shared_ptr<Heard> heard);

/// How a prefill worker misbehaves.
enum class Bend {
  kNone,
  kThrows,         // instead of an answer
  kThrowsLate,     // after it was computed and pushed, instead of the first token
  kRefuses,        // answers kUnavailable
  kCancelled,      // answers kCancelled
  kSilent,         // never answers
  kLosesBytes,     // first token, but the bytes go to a transfer nobody expects
  kWrongDigest,    // of the last block
  kFewDigests,
  kThrowsDigests,  // instead of giving them
  kSilentDigests,  // never gives them
};
wire::Prefill::Client MakeBentPrefill(wire::Prefill::Client real, Bend bend);

class ClusterTest : public LoopTest {
 protected:
  using GenerateAnswer = capnp::Response<wire::Decode::GenerateResults>;
  ClusterTest() { spdlog::set_level(spdlog::level::off); }
  ~ClusterTest() noexcept override { spdlog::set_level(spdlog_level_); }

  /// Starts a generate call at `worker`.
  kj::Promise<Status> Start(TestWorker& worker, const GenerateRequest& request, const std::vector<MemberInfo>& prefill, std::shared_ptr<Heard> heard);
  /// The same, to its end.
  Status Generate(TestWorker& worker, const GenerateRequest& request, const std::vector<MemberInfo>& prefill, Heard* out);
  /// It answered as one undisturbed sequence does.
  void ExpectRight(TestWorker& worker, const GenerateRequest& request, const Heard& heard, const std::string& where);
  /// Everything is given back: blocks, transfers, requests, calls.
  void ExpectIdle(TestWorker& worker) { EXPECT_TRUE(Until([&] { return worker.Idle(); })) << worker.Busy(); }

  static GenerateRequest Request(size_t prompt_tokens, uint64_t seed = 1, uint32_t max_tokens = 6);

  TestCluster cluster_{io_};
  uint64_t next_request_ = 1;

 private:
  const spdlog::level::level_enum spdlog_level_ = spdlog::get_level();
};

}  // namespace baton
