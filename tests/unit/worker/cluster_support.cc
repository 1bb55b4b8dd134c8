#include "cluster_support.h"

#include <bit>

#include "protocol/convert.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

/// Passes everything on, and tells after each Poll how many transfers are open.
class CountedTransport final : public Transport {
 public:
  CountedTransport(std::unique_ptr<Transport> inner, std::shared_ptr<std::atomic<size_t>> open) : inner_(std::move(inner)), open_(std::move(open)) {}
  ~CountedTransport() override { *open_ = 0; }
  std::string_view name() const override { return inner_->name(); }
  std::string address() const override { return inner_->address(); }
  Result<WorkerId> Connect(WorkerId peer, const std::string& address) override { return inner_->Connect(peer, address); }
  void Disconnect(WorkerId peer) override { inner_->Disconnect(peer); }
  Status Register(const ArenaMemory& arena) override { return inner_->Register(arena); }
  Status Expect(TransferId id, WorkerId from, std::span<const Landing> landings, Instant deadline, uint32_t digest_run) override {
    return inner_->Expect(id, from, landings, deadline, digest_run);
  }
  Status Push(TransferId id, WorkerId to, std::span<const Segment> segments) override { return inner_->Push(id, to, segments); }
  void Cancel(TransferId id) override { inner_->Cancel(id); }
  size_t Poll(std::span<Completion> out) override {
    const size_t n = inner_->Poll(out);
    const TransportStats now = inner_->stats();
    *open_ = now.receiving + now.sending;
    return n;
  }
  void Wait(Duration timeout) override { inner_->Wait(timeout); }
  void Wake() override { inner_->Wake(); }
  TransportStats stats() const override { return inner_->stats(); }

 private:
  const std::unique_ptr<Transport> inner_;
  const std::shared_ptr<std::atomic<size_t>> open_;
};

class RecordingSink final : public wire::TokenSink::Server {
 public:
  explicit RecordingSink(std::shared_ptr<Heard> heard) : heard_(std::move(heard)) {}
  ~RecordingSink() noexcept(false) { heard_->gone = true; }
  kj::Promise<void> route(RouteContext context) override {
    heard_->routes.push_back(ReadStats(context.getParams().getStats()));
    EXPECT_TRUE(heard_->tokens.empty()) << "the route comes before the first token";
    return kj::READY_NOW;
  }
  kj::Promise<void> tokens(TokensContext context) override {
    EXPECT_FALSE(heard_->end.has_value());
    EXPECT_FALSE(heard_->routes.empty());
    for (const auto token : context.getParams().getBatch()) {
      heard_->tokens.push_back(ReadToken(token));
      if (heard_->on_token) heard_->on_token();
    }
    return kj::READY_NOW;
  }
  kj::Promise<void> end(EndContext context) override {
    EXPECT_FALSE(heard_->end.has_value());
    heard_->end = ReadReason(context.getParams().getReason());
    heard_->stats = ReadStats(context.getParams().getStats());
    return kj::READY_NOW;
  }

 private:
  const std::shared_ptr<Heard> heard_;
};

class BentDigests final : public wire::Digests::Server {
 public:
  BentDigests(wire::Digests::Client real, Bend bend) : real_(kj::mv(real)), bend_(bend) {}
  kj::Promise<void> get(GetContext context) override {
    if (bend_ == Bend::kThrowsDigests) return KJ_EXCEPTION(FAILED, "no digests today");
    if (bend_ == Bend::kSilentDigests) {
      context.allowCancellation();
      return kj::NEVER_DONE;
    }
    return real_.getRequest().send().then([this, context](capnp::Response<wire::Digests::GetResults> r) mutable {
      const uint32_t n = r.getDigests().size() - (bend_ == Bend::kFewDigests ? 1 : 0);
      auto out = context.getResults().initDigests(n);
      for (uint32_t i = 0; i < n; ++i) {
        WriteDigest(ReadDigest(r.getDigests()[i]), out[i]);
        if (bend_ == Bend::kWrongDigest && i + 1 == n) out[i].setLow(~out[i].getLow());
      }
    });
  }

 private:
  wire::Digests::Client real_;
  const Bend bend_;
};

class BentPrefill final : public wire::Prefill::Server {
 public:
  BentPrefill(wire::Prefill::Client real, Bend bend) : real_(kj::mv(real)), bend_(bend) {}
  kj::Promise<void> prefill(PrefillContext context) override {
    context.allowCancellation();
    if (bend_ == Bend::kThrows) return KJ_EXCEPTION(DISCONNECTED, "the prefill worker died");
    if (bend_ == Bend::kSilent) return kj::NEVER_DONE;
    if (bend_ == Bend::kRefuses || bend_ == Bend::kCancelled) {
      WriteStatus(bend_ == Bend::kRefuses ? UnavailableError("draining") : CancelledError("stopping"), context.getResults().initStatus());
      return kj::READY_NOW;
    }
    auto call = real_.prefillRequest();
    call.setRequest(context.getParams().getRequest());
    call.setFirstBlock(context.getParams().getFirstBlock());
    call.setTarget(context.getParams().getTarget());
    if (bend_ == Bend::kLosesBytes) call.getTarget().setTransfer(call.getTarget().getTransfer() ^ (1ull << 63));
    return call.send().then([this, context](capnp::Response<wire::Prefill::PrefillResults> r) mutable {
      if (bend_ == Bend::kThrowsLate) kj::throwFatalException(KJ_EXCEPTION(DISCONNECTED, "the prefill worker died"));
      auto out = context.getResults();
      out.setStatus(r.getStatus());
      out.setFirstToken(r.getFirstToken());
      out.setStats(r.getStats());
      if (r.hasDigests()) out.setDigests(kj::heap<BentDigests>(r.getDigests(), bend_));
    });
  }

 private:
  wire::Prefill::Client real_;
  const Bend bend_;
};

}  // namespace

TransferNode::TransferNode(TestCluster& c, uint32_t id, const std::string& name, const std::string& role, size_t block_bytes, const NodeOptions& o)
    : cluster(c), options(o), pool(std::move(BlockPool::Create(o.blocks, block_bytes)).value()), node(std::make_unique<TestNode>(c.io)) {
  TransportConfig config;
  config.kind = "local";
  config.self = self.id = WorkerId(id);
  config.incarnation = self.incarnation = Incarnation(1);
  config.hub = c.hub;
  auto transport = std::make_unique<CountedTransport>(std::move(MakeTransport(config)).value(), open);
  EXPECT_TRUE(transport->Register({pool->arena()}).ok());
  pump = std::make_unique<TransferPump>(std::move(transport), c.clock);
  ids.Restart(self.id, self.incarnation);
  self.name = name;
  self.roles = {role};
  self.address = node->address();
  self.transport_kind = pump->kind();
  self.transport_address = pump->address();
}

TransferNode::~TransferNode() { StopTransport(); }

void TransferNode::StopTransport() {
  cluster.io.waitScope.poll();
  pump = nullptr;
  cluster.io.provider->getTimer().afterDelay(kj::MILLISECONDS).wait(cluster.io.waitScope);
}

TestWorker::TestWorker(TestCluster& c, uint32_t id, const std::string& name, const NodeOptions& o)
    : fake(SmallModel(50, o.block_tokens)), model(*fake), base(c, id, name, "decode", fake->kv_layout().BlockBytes(), o),
      peers(std::make_unique<PeerTable>(c.io.provider->getNetwork(), c.io.provider->getTimer(), "key", std::chrono::seconds(10))) {
  context.emplace(WorkerContext{base.context(), c.io.provider->getTimer(), metrics, *peers, c.view, model.kv_layout()});
  store = std::make_unique<StoreClient>(*context);
  EngineConfig config;
  config.prefill_chunk_tokens = o.prefill_chunk_tokens;
  engine = std::make_unique<EngineHost>(config, model, *base.pool, c.clock, c.loop,
                                        [this](SealedBlock block, const BlockKey& first) { store->PutBehind(std::move(block), first); },
                                        [this](std::vector<BlockKey> chain, size_t have) { return store->FetchIfSooner(std::move(chain), have, engine->load().prefill_tokens_per_s); });
  decode = wire::Decode::Client(kj::heap<DecodeService>(*context, *engine, *store));
  prefill = wire::Prefill::Client(kj::heap<PrefillService>(*context, *engine, *store));
  base.node->services.decode = decode;
  base.node->services.prefill = prefill;
}

/// In the order of a rank's end: calls, connections, transport, engine.
TestWorker::~TestWorker() {
  base.node->services = NodeServices();
  decode = nullptr;
  prefill = nullptr;
  base.node = nullptr;
  base.cluster.io.waitScope.poll();
  peers = nullptr;
  base.StopTransport();
  engine = nullptr;
  store = nullptr;
  base.cluster.io.waitScope.poll();
}

std::string TestWorker::Busy() const {
  return fmt::format("{}: {} blocks referenced, {} transfers, {} requests, {} calls", base.self.name, base.referenced(), base.open_transfers(),
                     engine->open_requests(), context->open_calls);
}

TestStore::TestStore(TestCluster& c, uint32_t id, const std::string& name, const NodeOptions& o)
    : base(c, id, name, "store", SmallLayout(o.block_tokens).BlockBytes(), o), context(base.context()) {
  BlockStoreConfig config;
  config.block_bytes = base.pool->block_bytes();
  config.memory_bytes = 1 << 20;
  config.tenant_bytes = 1 << 20;
  blocks = std::move(OpenBlockStore(config)).value();
  HoldLimits limits;
  limits.block_bytes = config.block_bytes;
  holds = std::make_unique<HoldTable>(*blocks, c.clock, limits);
  base.node->services.store = wire::Store::Client(kj::heap<StoreService>(context, *blocks, *holds, *io));
}

TestStore::~TestStore() {
  base.node->services = NodeServices();
  base.node = nullptr;
  io = nullptr;
  base.StopTransport();
}

Answer Heard::AsAnswer() const {
  Answer answer;
  answer.events = tokens;
  for (const TokenEvent& event : tokens) {
    answer.tokens.push_back(event.token);
    answer.logprob_bits.push_back(std::bit_cast<uint32_t>(event.logprob));
  }
  return answer;
}

wire::TokenSink::Client MakeSink(std::shared_ptr<Heard> heard) { return kj::heap<RecordingSink>(std::move(heard)); }
wire::Prefill::Client MakeBentPrefill(wire::Prefill::Client real, Bend bend) { return kj::heap<BentPrefill>(kj::mv(real), bend); }

kj::Promise<Status> ClusterTest::Start(TestWorker& worker, const GenerateRequest& request, const std::vector<MemberInfo>& prefill,
                                       std::shared_ptr<Heard> heard) {
  auto call = KJ_ASSERT_NONNULL(worker.decode).generateRequest();
  WriteRequest(request, TestRoot(), call.initRequest());
  auto members = call.initPrefill(static_cast<uint32_t>(prefill.size()));
  for (uint32_t i = 0; i < prefill.size(); ++i) WriteMember(prefill[i], members[i]);
  call.setSink(MakeSink(std::move(heard)));
  return CatchAsStatus(kj::Promise<GenerateAnswer>(call.send()).then([](GenerateAnswer answer) { return ReadStatus(answer.getStatus()); }));
}

Status ClusterTest::Generate(TestWorker& worker, const GenerateRequest& request, const std::vector<MemberInfo>& prefill, Heard* out) {
  auto heard = std::make_shared<Heard>();
  const Status status = Wait(Start(worker, request, prefill, heard));
  *out = *heard;
  return status;
}

void ClusterTest::ExpectRight(TestWorker& worker, const GenerateRequest& request, const Heard& heard, const std::string& where) {
  ExpectSameAnswer(heard.AsAnswer(), PlainAnswer(*worker.fake, request), where);
  ASSERT_TRUE(heard.end.has_value()) << where;
  EXPECT_EQ(*heard.end, FinishReason::kLength) << where;
  EXPECT_EQ(heard.routes.size(), 1u) << where;
  EXPECT_EQ(heard.stats.prompt_tokens, request.prompt.size()) << where;
  EXPECT_EQ(heard.stats.cached_tokens, heard.routes[0].cached_tokens) << where;
}

GenerateRequest ClusterTest::Request(size_t prompt_tokens, uint64_t seed, uint32_t max_tokens) {
  GenerateRequest request;
  request.id = RequestId(seed);
  request.prompt = TestPrompt(prompt_tokens, seed);
  request.max_tokens = max_tokens;
  request.sampling = SeededParams(seed);
  return request;
}

}  // namespace baton
