// Workers and a store: prefixes come from it, computed blocks go to it behind the answer, and a store that lies, hangs or dies is
// a miss, never another answer.
#include "cluster_support.h"

#include "protocol/convert.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

constexpr size_t kBt = 4;

/// How a store misbehaves.
enum class Lie {
  kNone,
  kThrows,
  kRefuses,
  kWrongKey,
  kShortKey,
  kWrongDigest,
  kMoreHeaders,
  kNoLease,
  kOtherSize,     // pushes blocks of half the size
  kPushThrows,
  kPushRefused,
  kSilentOpen,
  kSilentPush,
  kAbsentWanted,  // asks for a block that was not offered
  kNoSession,
  kSilentFinish,
};

class LyingLease final : public wire::StoreLease::Server {
 public:
  LyingLease(wire::StoreLease::Client real, Lie lie, TransferNode& node) : real_(kj::mv(real)), lie_(lie), node_(node) {}
  kj::Promise<void> push(PushContext context) override {
    if (lie_ == Lie::kPushThrows) return KJ_EXCEPTION(DISCONNECTED, "the store died");
    if (lie_ == Lie::kSilentPush) {
      context.allowCancellation();
      return kj::NEVER_DONE;
    }
    const auto target = context.getParams().getTarget();
    if (lie_ == Lie::kPushRefused) {
      WriteStatus(UnavailableError("no"), context.getResults().initStatus());
      return kj::READY_NOW;
    }
    if (lie_ == Lie::kOtherSize) {
      const TransferId id(target.getTransfer());
      node_.pump->Push(id, {WorkerId(target.getWorker()), ToString(target.getTransportAddress())}, {{0, node_.pool->arena().data(), node_.pool->block_bytes() / 2}});
      node_.pump->CloseSend(id, [](const Status&) {});
      return kj::READY_NOW;
    }
    auto call = real_.pushRequest();
    call.setTarget(target);
    return call.send().then([context](capnp::Response<wire::StoreLease::PushResults> r) mutable { context.getResults().setStatus(r.getStatus()); });
  }

 private:
  wire::StoreLease::Client real_;
  const Lie lie_;
  TransferNode& node_;
};

class SilentSession final : public wire::PutSession::Server {
 public:
  explicit SilentSession(wire::PutSession::Client real) : real_(kj::mv(real)) {}
  kj::Promise<void> finish(FinishContext context) override {
    context.allowCancellation();
    return kj::NEVER_DONE;
  }

 private:
  wire::PutSession::Client real_;
};

class LyingStore final : public wire::Store::Server {
 public:
  LyingStore(wire::Store::Client real, Lie lie, TransferNode& node) : real_(kj::mv(real)), lie_(lie), node_(node) {}

  kj::Promise<void> open(OpenContext context) override {
    if (lie_ == Lie::kThrows) return KJ_EXCEPTION(FAILED, "a broken store");
    if (lie_ == Lie::kSilentOpen) {
      context.allowCancellation();
      return kj::NEVER_DONE;
    }
    if (lie_ == Lie::kRefuses) {
      WriteStatus(UnavailableError("no"), context.getResults().initStatus());
      return kj::READY_NOW;
    }
    auto call = real_.openRequest();
    call.setKeys(context.getParams().getKeys());
    return call.send().then([this, context](capnp::Response<wire::Store::OpenResults> r) mutable { Bend(context.getResults(), r); });
  }
  kj::Promise<void> put(PutContext context) override {
    if (lie_ == Lie::kThrows) return KJ_EXCEPTION(FAILED, "a broken store");
    auto call = real_.putRequest();
    const auto p = context.getParams();
    call.setHeaders(p.getHeaders());
    call.setBlockBytes(p.getBlockBytes());
    call.setFrom(p.getFrom());
    call.setTransportAddress(p.getTransportAddress());
    if (lie_ == Lie::kWrongDigest) call.getHeaders()[0].getDigest().setLow(1);
    return call.send().then([this, context](capnp::Response<wire::Store::PutResults> r) mutable {
      auto out = context.getResults();
      out.setStatus(r.getStatus());
      out.setWanted(r.getWanted());
      out.setTarget(r.getTarget());
      if (lie_ == Lie::kAbsentWanted) out.getWanted().set(0, 1000);
      if (lie_ == Lie::kSilentFinish) out.setSession(kj::heap<SilentSession>(r.getSession()));
      else if (lie_ != Lie::kNoSession) out.setSession(r.getSession());
    });
  }

 private:
  void Bend(wire::Store::OpenResults::Builder out, capnp::Response<wire::Store::OpenResults>& r) {
    const uint32_t n = r.getHeaders().size();
    auto headers = out.initHeaders(n + (lie_ == Lie::kMoreHeaders ? 40 : 0));
    for (uint32_t i = 0; i < n; ++i) headers.setWithCaveats(i, r.getHeaders()[i]);
    const BlockKey other = {Sha256(AsBytes("other"))};
    if (n > 0 && lie_ == Lie::kWrongKey) headers[n - 1].setKey(ToData(other));
    if (n > 0 && lie_ == Lie::kShortKey) headers[n - 1].initKey(5);
    if (n > 0 && lie_ == Lie::kWrongDigest) headers[n - 1].getDigest().setHigh(1);
    if (lie_ == Lie::kNoLease || !r.hasLease()) return;
    out.setLease(kj::heap<LyingLease>(r.getLease(), lie_, node_));
  }

  wire::Store::Client real_;
  const Lie lie_;
  TransferNode& node_;
};

class StoreClientTest : public ClusterTest {
 protected:
  ~StoreClientTest() noexcept override = default;

  std::unique_ptr<TestWorker> Worker(uint32_t id, const NodeOptions& options = {}) {
    return std::make_unique<TestWorker>(cluster_, id, fmt::format("worker-{}", id), options);
  }
  void OpenStore(const NodeOptions& options = {}) {
    store_ = std::make_unique<TestStore>(cluster_, 9, "store", options);
    cluster_.Join(store_->base.self);
  }
  void Lying(Lie lie) {
    auto real = wire::Store::Client(kj::heap<StoreService>(store_->context, *store_->blocks, *store_->holds, *store_->io));
    store_->base.node->services.store = wire::Store::Client(kj::heap<LyingStore>(kj::mv(real), lie, store_->base));
  }
  /// An answer whose blocks reach the store.
  void Fill(const GenerateRequest& request) {
    auto worker = Worker(1);
    Heard heard;
    ASSERT_TRUE(Generate(*worker, request, {}, &heard).ok());
    Wait(worker->store->Drained());
    ExpectIdle(*worker);
  }
  void ExpectStoreIdle() {
    EXPECT_TRUE(Until([&] { return store_->base.referenced() == 0 && store_->base.open_transfers() == 0; }))
        << store_->base.referenced() << " blocks, " << store_->base.open_transfers() << " transfers";
  }
  double Count(TestWorker& worker, const char* name) { return worker.Count(fmt::format("baton_worker_store_{}_total", name)); }

  std::unique_ptr<TestStore> store_;
};

TEST_F(StoreClientTest, TheNextTurnFindsPromptAndAnswer) {
  OpenStore();
  const GenerateRequest first = Request(3 * kBt + 1, 5, 8);
  Fill(first);
  // 13 tokens and 8 more; the last one's KV is never computed: five full blocks.
  EXPECT_EQ(store_->blocks->stats().blocks_memory, 5u);
  auto worker = Worker(2);
  GenerateRequest second = first;
  const Answer answer = PlainAnswer(*worker->fake, first);
  second.prompt.insert(second.prompt.end(), answer.tokens.begin(), answer.tokens.end());
  second.prompt.push_back(3);
  Heard heard;
  ASSERT_TRUE(Generate(*worker, second, {}, &heard).ok());
  ExpectRight(*worker, second, heard, "second turn");
  EXPECT_EQ(heard.stats.cached_tokens, 5 * kBt);
  EXPECT_THAT(heard.stats.route, ::testing::HasSubstr("store 20"));
  EXPECT_EQ(Count(*worker, "blocks_fetched"), 5);
  Wait(worker->store->Drained());
  EXPECT_EQ(Count(*worker, "blocks_written"), store_->blocks->stats().blocks_memory - 5) << "only what was computed here";
  ExpectIdle(*worker);
  ExpectStoreIdle();
}

/// For a cache handle the store is to have what a worker found in its own pool.
TEST_F(StoreClientTest, AKeptRequestBringsWhatIsOnlyInThePoolToTheStore) {
  auto worker = Worker(1);
  GenerateRequest request = Request(3 * kBt + 1, 5, 1);
  Heard heard;
  ASSERT_TRUE(Generate(*worker, request, {}, &heard).ok());
  OpenStore();  // too late for those blocks
  ASSERT_TRUE(Generate(*worker, request, {}, &heard).ok());
  Wait(worker->store->Drained());
  EXPECT_EQ(store_->blocks->stats().blocks_memory, 0u) << "they were not computed anew, so nobody wrote them";
  request.keep = true;
  ASSERT_TRUE(Generate(*worker, request, {}, &heard).ok());
  ExpectRight(*worker, request, heard, "kept");
  Wait(worker->store->Drained());
  EXPECT_EQ(store_->blocks->Lookup(KeyChain(TestRoot(), request.prompt, kBt)), 3u);
  EXPECT_EQ(store_->blocks->Read(KeyChain(TestRoot(), request.prompt, kBt)[2])->header.token_ids,
            std::vector<TokenId>(request.prompt.begin() + 2 * kBt, request.prompt.begin() + 3 * kBt));
  ASSERT_TRUE(Generate(*worker, request, {}, &heard).ok());
  Wait(worker->store->Drained());
  EXPECT_EQ(Count(*worker, "blocks_written"), 3) << "what the store has does not travel again";
  ExpectIdle(*worker);
  ExpectStoreIdle();
}

TEST_F(StoreClientTest, AKeptRequestsHandedOverBlocksComeToTheStore) {
  auto prefill = Worker(2), decode = Worker(3);
  GenerateRequest request = Request(4 * kBt + 2, 6);
  Heard heard;
  ASSERT_TRUE(Generate(*prefill, request, {}, &heard).ok());  // in the prefill worker's pool, and nowhere else
  OpenStore();
  request.keep = true;
  ASSERT_TRUE(Generate(*decode, request, {prefill->base.self}, &heard).ok());
  ExpectRight(*decode, request, heard, "kept");
  Wait(prefill->store->Drained());
  Wait(decode->store->Drained());
  EXPECT_EQ(store_->blocks->Lookup(KeyChain(TestRoot(), request.prompt, kBt)), 4u);
  ExpectIdle(*prefill);
  ExpectIdle(*decode);
  ExpectStoreIdle();
}

TEST_F(StoreClientTest, TheStoreLearnsWhoseAChainIs) {
  OpenStore();
  GenerateRequest request = Request(3 * kBt + 1, 5, 1);
  request.tenant = "alice/0123456789abcdef";
  Fill(request);
  EXPECT_EQ(store_->blocks->tenants()["alice"].blocks, 3u) << "the salt's chain is its tenant's";
}

TEST_F(StoreClientTest, PrefillTakesTheStoredPrefixAndPushesIt) {
  OpenStore();
  const GenerateRequest request = Request(4 * kBt + 2, 6);
  Fill(request);
  auto prefill = Worker(2), decode = Worker(3);
  Heard heard;
  ASSERT_TRUE(Generate(*decode, request, {prefill->base.self}, &heard).ok());
  ExpectRight(*decode, request, heard, "store, prefill, decode");
  EXPECT_EQ(heard.stats.cached_tokens, 4 * kBt);
  EXPECT_EQ(prefill->model.tokens, 2u);
  ExpectIdle(*prefill);
  ExpectIdle(*decode);
}

TEST(FetchPays, GoldenCases) {
  constexpr size_t kBlock = 1'500'000;  // 64 tokens of the demo model
  const struct {
    std::string name;
    size_t blocks;
    double bytes_per_s, tokens_per_s;
    bool want;
  } cases[] = {
      {"the store's speed is not known: it is tried", 1, 0, 1200, true},
      {"nor is that of computing", 1, 1e9, 0, true},
      {"a block at a gigabyte a second against 53 ms", 1, 1e9, 1200, true},
      {"ten blocks from a slow disk against half a second", 10, 2e7, 1200, false},
      {"ten blocks from a disk that keeps up", 10, 4e7, 1200, true},
      {"a machine that computes a block in a millisecond", 1, 1e9, 64000, false},
      {"but many blocks are worth the round trip", 40, 1e10, 64000, true},
      {"nothing to fetch", 0, 1e9, 1200, false},
  };
  for (const auto& c : cases) EXPECT_EQ(FetchPays(c.blocks, kBlock, c.bytes_per_s, 64, c.tokens_per_s), c.want) << c.name;
}

/// A request of low priority loses its blocks to one of high priority; what it had sealed comes back from the store.
TEST_F(StoreClientTest, APreemptedRequestsBlocksComeBack) {
  OpenStore();
  auto worker = Worker(2, {.blocks = 12});
  const GenerateRequest low = Request(5 * kBt, 7, 20);
  GenerateRequest high = Request(9 * kBt, 8, 4);
  high.priority = 1;
  worker->model.before = [&] {  // on the engine's thread: the low one stands still in its answer until the high one is there
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (worker->model.passes == 10 && worker->engine->load().waiting == 0 && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
  };
  auto low_heard = std::make_shared<Heard>(), high_heard = std::make_shared<Heard>();
  auto first = Start(*worker, low, {}, low_heard);
  ASSERT_TRUE(Until([&] { return low_heard->tokens.size() >= 5; }));
  auto second = Start(*worker, high, {}, high_heard);
  EXPECT_TRUE(second.wait(io_.waitScope).ok());
  EXPECT_TRUE(first.wait(io_.waitScope).ok());
  ExpectRight(*worker, low, *low_heard, "preempted");
  ExpectRight(*worker, high, *high_heard, "the one it gave way to");
  EXPECT_GE(worker->engine->load().preemptions, 1u);
  EXPECT_GE(Count(*worker, "blocks_fetched"), 1);
  Wait(worker->store->Drained());
  ExpectIdle(*worker);
  ExpectStoreIdle();
}

TEST_F(StoreClientTest, LongPrefixesComeInSeveralLookups) {
  NodeOptions large;
  large.blocks = 256;
  OpenStore(large);
  const GenerateRequest request = Request(100 * kBt + 1, 7, 2);
  auto writer = Worker(1, large);
  Heard heard;
  ASSERT_TRUE(Generate(*writer, request, {}, &heard).ok());
  Wait(writer->store->Drained());
  auto reader = Worker(2, large);
  ASSERT_TRUE(Generate(*reader, request, {}, &heard).ok());
  ExpectRight(*reader, request, heard, "100 blocks");
  EXPECT_EQ(Count(*reader, "blocks_fetched"), 100);
  EXPECT_GT(reader->store->bytes_per_s(), 0);
  ExpectIdle(*reader);
  ExpectStoreIdle();
}

TEST_F(StoreClientTest, FetchBeginsBehindWhatIsHeld) {
  OpenStore();
  const GenerateRequest request = Request(4 * kBt, 8);
  Fill(request);
  auto worker = Worker(2);
  const std::vector<BlockKey> chain = KeyChain(TestRoot(), request.prompt, kBt);
  {
    const BlockRefs got = Wait(worker->store->Fetch(chain, 1));
    EXPECT_EQ(got.size(), 3u);
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(store_->blocks->Read(chain[i + 1])->header.digest, Xxh3({worker->base.pool->data(got.ids()[i]), worker->base.pool->block_bytes()}));
    }
    EXPECT_EQ(worker->base.referenced(), 3u);
  }
  EXPECT_TRUE(Wait(worker->store->Fetch(chain, 4)).empty());
  EXPECT_TRUE(Wait(worker->store->Fetch({}, 0)).empty());
  ExpectIdle(*worker);
}

TEST_F(StoreClientTest, AStoreThatFailsIsAMiss) {
  OpenStore();
  const GenerateRequest request = Request(3 * kBt + 1, 5);
  Fill(request);
  for (const Lie lie : {Lie::kThrows, Lie::kRefuses, Lie::kWrongKey, Lie::kShortKey, Lie::kWrongDigest, Lie::kMoreHeaders, Lie::kNoLease, Lie::kOtherSize,
                        Lie::kPushThrows, Lie::kPushRefused, Lie::kSilentOpen, Lie::kSilentPush}) {
    const std::string where = fmt::format("lie {}", static_cast<int>(lie));
    NodeOptions options;
    if (lie == Lie::kSilentOpen || lie == Lie::kSilentPush || lie == Lie::kOtherSize) options.timeout = std::chrono::milliseconds(60);
    Lying(lie);
    SCOPED_TRACE(where);
    auto worker = Worker(2, options);
    Heard heard;
    const Status status = Generate(*worker, request, {}, &heard);
    ASSERT_TRUE(status.ok()) << where << status.ToString();
    ExpectRight(*worker, request, heard, where);
    EXPECT_EQ(heard.stats.cached_tokens, 0u) << where;
    EXPECT_EQ(Count(*worker, "blocks_fetched"), 0) << where;
    EXPECT_EQ(Count(*worker, "blocks_corrupt"), lie == Lie::kWrongDigest ? 1 : 0) << where;
    Wait(worker->store->Drained());
    ExpectIdle(*worker);
    ExpectStoreIdle();
  }
}

TEST_F(StoreClientTest, AStoreThatFailsAPutLosesOnlyThat) {
  for (const Lie lie : {Lie::kThrows, Lie::kAbsentWanted, Lie::kNoSession, Lie::kSilentFinish, Lie::kWrongDigest}) {
    const std::string where = fmt::format("lie {}", static_cast<int>(lie));
    cluster_.members.clear();
    store_ = nullptr;
    OpenStore();
    Lying(lie);
    NodeOptions options;
    if (lie == Lie::kSilentFinish) options.timeout = std::chrono::milliseconds(60);
    auto worker = Worker(2, options);
    const GenerateRequest request = Request(3 * kBt, 5, 3);
    Heard heard;
    ASSERT_TRUE(Generate(*worker, request, {}, &heard).ok()) << where;
    ExpectRight(*worker, request, heard, where);
    Wait(worker->store->Drained());
    EXPECT_GE(Count(*worker, "blocks_dropped"), 1) << where;
    ExpectIdle(*worker);
    ExpectStoreIdle();
    if (lie == Lie::kWrongDigest) {
      EXPECT_EQ(store_->blocks->Lookup(KeyChain(TestRoot(), request.prompt, kBt)), 0u) << "the first one was refused";
    }
  }
}

TEST_F(StoreClientTest, WithoutAStoreNothingIsQueued) {
  auto worker = Worker(1);
  const GenerateRequest request = Request(3 * kBt, 5, 3);
  Heard heard;
  ASSERT_TRUE(Generate(*worker, request, {}, &heard).ok());
  Wait(worker->store->Drained());
  EXPECT_EQ(Count(*worker, "blocks_dropped"), 3);
  ExpectIdle(*worker);
}

TEST_F(StoreClientTest, AStoreThatLeftIsNotAsked) {
  OpenStore();
  const GenerateRequest request = Request(3 * kBt, 5);
  Fill(request);
  MemberInfo draining = store_->base.self;
  draining.draining = true;
  cluster_.members = {draining};
  cluster_.view.Update(cluster_.members);
  auto worker = Worker(2);
  EXPECT_TRUE(Wait(worker->store->Fetch(KeyChain(TestRoot(), request.prompt, kBt), 0)).empty());
  EXPECT_EQ(Count(*worker, "misses"), 0);
}

TEST_F(StoreClientTest, AChainLivesInOneStoreAndALostStoreLosesOnlyItsPart) {
  OpenStore();
  TestStore second(cluster_, 10, "second");
  cluster_.Join(second.base.self);
  std::vector<GenerateRequest> requests;
  {
    auto worker = Worker(1);
    for (uint64_t seed = 1; seed <= 12; ++seed) {
      requests.push_back(Request(3 * kBt, 200 + seed, 2));
      Heard heard;
      ASSERT_TRUE(Generate(*worker, requests.back(), {}, &heard).ok());
    }
    Wait(worker->store->Drained());
  }
  size_t in_first = 0;
  for (const GenerateRequest& request : requests) {
    const std::vector<BlockKey> chain = KeyChain(TestRoot(), request.prompt, kBt);
    const size_t a = store_->blocks->Lookup(chain), b = second.blocks->Lookup(chain);
    EXPECT_EQ(a + b, 3u);
    EXPECT_TRUE(a == 0 || b == 0) << "not torn";
    in_first += a == 3;
  }
  EXPECT_GT(in_first, 0u);
  EXPECT_LT(in_first, requests.size());
  cluster_.Leave(second.base.self.id);
  auto reader = Worker(2);
  size_t found = 0;
  for (const GenerateRequest& request : requests) found += Wait(reader->store->Fetch(KeyChain(TestRoot(), request.prompt, kBt), 0)).size() == 3;
  EXPECT_EQ(found, in_first);
}

TEST_F(StoreClientTest, TheStoreDiesWhileItIsRead) {
  OpenStore();
  const GenerateRequest request = Request(3 * kBt + 1, 5);
  Fill(request);
  Lying(Lie::kSilentPush);
  auto worker = Worker(2);
  auto heard = std::make_shared<Heard>();
  auto call = Start(*worker, request, {}, heard);
  ASSERT_TRUE(Until([&] { return worker->base.open_transfers() == 1; }));
  const WorkerId id = store_->base.self.id;
  cluster_.Leave(id);
  store_ = nullptr;
  ASSERT_TRUE(Wait(kj::mv(call)).ok());
  ExpectRight(*worker, request, *heard, "computed here");
  ExpectIdle(*worker);
}

TEST_F(StoreClientTest, DroppedWhileTheStoreIsRead) {
  OpenStore();
  const GenerateRequest request = Request(3 * kBt + 1, 5);
  Fill(request);
  for (const Lie lie : {Lie::kSilentOpen, Lie::kSilentPush}) {
    Lying(lie);
    auto worker = Worker(2), prefill = Worker(3);
    for (const bool remote : {false, true}) {
      auto heard = std::make_shared<Heard>();
      {
        auto call = Start(*worker, request, remote ? std::vector<MemberInfo>{prefill->base.self} : std::vector<MemberInfo>(), heard).eagerlyEvaluate(nullptr);
        TestWorker& reader = remote ? *prefill : *worker;
        ASSERT_TRUE(Until([&] { return lie == Lie::kSilentPush ? reader.base.open_transfers() >= 1 : reader.context->open_calls == 1; }));
      }
      EXPECT_TRUE(Until([&] { return heard->gone; }));
      ExpectIdle(*worker);
      ExpectIdle(*prefill);
    }
    ExpectStoreIdle();
  }
}

}  // namespace
}  // namespace baton
