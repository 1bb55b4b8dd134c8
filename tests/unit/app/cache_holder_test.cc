// How a handle's blocks come to stay in stores: against real store services, with a backend that computes what the test says.
#include "app/cache_holder.h"

#include "kvstore/hold_table.h"
#include "kvstore/store_service.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"
#include "tests/support/loop_support.h"
#include "tests/unit/kvstore/store_support.h"
#include "worker/store_client.h"

namespace baton {
namespace {

constexpr size_t kBytes = 1024;
constexpr uint32_t kBlock = 4;

BlockKey Root(const std::string& salt = "") { return RootKey({Sha256(AsBytes("model")), "layout", "exact", salt}); }

/// A store on a port. It needs no transport: bytes are put by the test itself.
struct Store {
  Store(kj::AsyncIoContext& io, LoopQueue& loop, const Clock& clock, uint32_t id, uint64_t tenant_blocks) {
    BlockStoreConfig config;
    config.memory_bytes = 64 * kBytes;
    blocks = std::move(OpenBlockStore(config)).value();
    HoldLimits limits;
    limits.block_bytes = kBytes;
    limits.tenant_bytes = tenant_blocks * kBytes;
    holds = std::make_unique<HoldTable>(*blocks, clock, limits);
    pool = std::move(BlockPool::Create(4, kBytes)).value();
    TransportConfig transport;
    transport.kind = "local";
    transport.self = WorkerId(id);
    transport.hub = MakeLocalHub();
    pump = std::make_unique<TransferPump>(std::move(MakeTransport(transport)).value(), clock);
    context.emplace(TransferContext{loop, clock, *pool, *pump, ids, std::chrono::seconds(20), WorkerId(id), Incarnation(1)});
    node = std::make_unique<TestNode>(io);
    node->services.store = wire::Store::Client(kj::heap<StoreService>(*context, *blocks, *holds, *threads));
    self.id = WorkerId(id);
    self.incarnation = Incarnation(1);
    self.name = "store-" + std::to_string(id);
    self.roles = {"store"};
    self.address = node->address();
    self.transport_address = "here";
  }
  ~Store() {
    node->services = NodeServices();
    node = nullptr;
    threads = nullptr;
  }
  void Put(std::span<const BlockKey> keys, size_t from, size_t to) {
    for (size_t i = from; i < to; ++i) {
      TestBlock block = MakeTestBlock(keys[i].Prefix64() >> 8, kBytes);
      block.header.key = keys[i];
      block.header.parent = i == 0 ? Root() : keys[i - 1];
      block.header.depth = static_cast<uint32_t>(i);
      EXPECT_TRUE(blocks->Put(block.header, block.bytes).ok());
    }
  }

  std::unique_ptr<BlockStore> blocks;
  std::unique_ptr<HoldTable> holds;
  std::unique_ptr<BlockPool> pool;
  std::unique_ptr<TransferPump> pump;
  TransferIds ids;
  std::optional<TransferContext> context;
  std::unique_ptr<TaskThreads> threads = std::make_unique<TaskThreads>(2);
  std::unique_ptr<TestNode> node;
  MemberInfo self;
};

/// Computes at once what it is asked for, or fails.
class Computer final : public Backend {
 public:
  Computer() { card_.block_tokens = kBlock; }
  const ModelCard& card() const override { return card_; }
  std::unique_ptr<GenerationHandle> Generate(GenerateRequest request, GenerationSink& sink) override {
    requests.push_back(request);
    if (on_generate) on_generate(request);
    if (error.ok()) sink.OnEnd(FinishReason::kLength, {});
    else sink.OnError(error, 0);
    return std::make_unique<GenerationHandle>();
  }
  Status Health() override { return OkStatus(); }
  kj::Promise<Result<std::string>> ClusterJson() override { return Result<std::string>(std::string()); }
  kj::Promise<Result<std::string>> ExplainRoute(std::vector<TokenId>, uint32_t, std::string) override { return Result<std::string>(std::string()); }
  kj::Promise<Result<std::string>> ExplainRequest(RequestId) override { return Result<std::string>(std::string()); }
  kj::Promise<Status> SetRole(WorkerId, std::string) override { return OkStatus(); }
  kj::Promise<std::string> MetricsText() override { return std::string(); }
  kj::Promise<Status> Drain(WorkerId) override { return OkStatus(); }
  kj::Promise<Result<HeldBlocks>> HoldCache(CacheRecord, HoldMode) override { return Result<HeldBlocks>(HeldBlocks()); }
  kj::Promise<Status> ReleaseCache(std::string) override { return OkStatus(); }
  kj::Promise<std::vector<CacheRecord>> StoredCaches(std::string, std::string) override { return std::vector<CacheRecord>(); }
  kj::Promise<Result<std::string>> ExplainCache(std::vector<TokenId>, std::string) override { return Result<std::string>(std::string()); }

  std::vector<GenerateRequest> requests;
  std::function<void(const GenerateRequest&)> on_generate;
  Status error;

 private:
  ModelCard card_;
};

class CacheHolderTest : public LoopTest {
 protected:
  ~CacheHolderTest() noexcept override {
    stores_.clear();
    timer_.afterDelay(kj::MILLISECONDS).wait(io_.waitScope);
  }
  Store& Add(uint32_t id = 1, uint64_t tenant_blocks = 0) {
    stores_.push_back(std::make_unique<Store>(io_, loop_, clock_, id, tenant_blocks));
    members_.push_back(stores_.back()->self);
    view_.Update(members_);
    return *stores_.back();
  }
  void Kill(size_t index) {
    members_.erase(members_.begin() + static_cast<ptrdiff_t>(index));
    view_.Update(members_);
    stores_.erase(stores_.begin() + static_cast<ptrdiff_t>(index));
  }
  static CacheRecord Record(size_t tokens, char digit = 'a', std::string tenant = "alice", TokenId first = 10) {
    CacheRecord record{"cache_" + std::string(32, digit), std::move(tenant), {}, 1, 0};
    for (size_t i = 0; i < tokens; ++i) record.tokens.push_back(first + static_cast<TokenId>(i));
    return record;
  }
  static std::vector<BlockKey> Keys(const CacheRecord& record) { return KeyChain(Root(), record.tokens, kBlock); }
  Result<HeldBlocks> Hold(const CacheRecord& record, HoldMode mode) { return Wait(holder_.Hold(record, Root(), mode)); }

  SystemClock clock_;
  LoopQueue loop_{io_.unixEventPort};
  PeerTable peers_ = MakePeers();
  MembershipView view_;
  std::vector<MemberInfo> members_;
  std::vector<std::unique_ptr<Store>> stores_;
  Computer computer_;
  CacheHolder holder_{computer_, timer_, clock_, peers_, view_};
};

TEST_F(CacheHolderTest, WhatIsThereIsHeldAndNothingComputed) {
  Store& store = Add();
  const CacheRecord record = Record(14);
  store.Put(Keys(record), 0, 3);
  for (const HoldMode mode : {HoldMode::kComplete, HoldMode::kFresh, HoldMode::kAsIs}) {
    const auto held = Hold(record, mode);
    ASSERT_TRUE(held.ok()) << held.status().message();
    EXPECT_EQ(held->held, 3u);
  }
  EXPECT_TRUE(computer_.requests.empty());
  EXPECT_EQ(store.blocks->stats().pinned, 3u);
}

TEST_F(CacheHolderTest, WhatIsMissingIsComputed) {
  Store& store = Add();
  const CacheRecord record = Record(14);
  store.Put(Keys(record), 0, 1);
  computer_.on_generate = [&](const GenerateRequest&) { store.Put(Keys(record), 1, 3); };
  const auto held = Hold(record, HoldMode::kComplete);
  ASSERT_TRUE(held.ok()) << held.status().message();
  EXPECT_EQ(held->held, 3u);
  ASSERT_EQ(computer_.requests.size(), 1u);
  const GenerateRequest& asked = computer_.requests[0];
  EXPECT_EQ(asked.prompt, record.tokens);
  EXPECT_EQ(asked.tenant, "alice");
  EXPECT_EQ(asked.max_tokens, 1u);
  EXPECT_TRUE(asked.keep);
  EXPECT_NE(asked.id.value, 0u);
}

TEST_F(CacheHolderTest, BlocksOnTheirWayAreWaitedFor) {
  Store& store = Add();
  const CacheRecord record = Record(12);
  auto held = holder_.Hold(record, Root(), HoldMode::kFresh);
  timer_.afterDelay(30 * kj::MILLISECONDS).wait(io_.waitScope);
  store.Put(Keys(record), 0, 3);
  EXPECT_EQ(Wait(kj::mv(held))->held, 3u);
  EXPECT_TRUE(computer_.requests.empty());
}

TEST_F(CacheHolderTest, FreshOnesThatDoNotComeAreComputed) {
  Store& store = Add();
  const CacheRecord record = Record(12);
  computer_.on_generate = [&](const GenerateRequest&) { store.Put(Keys(record), 0, 3); };
  EXPECT_EQ(Hold(record, HoldMode::kFresh)->held, 3u);
  EXPECT_EQ(computer_.requests.size(), 1u);
}

TEST_F(CacheHolderTest, AStoreThatTakesNothingIsAnError) {
  Add();
  const auto held = Hold(Record(12), HoldMode::kComplete);
  EXPECT_EQ(held.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(held.status().message(), ::testing::HasSubstr("0 of the cache's 3 blocks"));
  EXPECT_EQ(computer_.requests.size(), 1u) << "once is enough";
}

TEST_F(CacheHolderTest, AsIsHoldsTheRecordWithWhatIsThere) {
  Store& store = Add();
  const CacheRecord record = Record(12);
  store.Put(Keys(record), 0, 2);
  EXPECT_EQ(Hold(record, HoldMode::kAsIs)->held, 2u);
  EXPECT_EQ(store.holds->List("alice", "", 10).size(), 1u);
}

TEST_F(CacheHolderTest, ErrorsComeThrough) {
  EXPECT_EQ(Hold(Record(12), HoldMode::kComplete).status().code(), StatusCode::kUnavailable) << "no store";
  Store& store = Add(1, 2);
  EXPECT_EQ(Hold(Record(12), HoldMode::kComplete).status().code(), StatusCode::kInvalid) << "three blocks of a quota of two";
  EXPECT_TRUE(computer_.requests.empty()) << "found out before it was computed";
  store.Put(Keys(Record(8)), 0, 2);
  ASSERT_TRUE(Hold(Record(8), HoldMode::kComplete).ok());
  EXPECT_EQ(Hold(Record(8, 'b', "alice", 500), HoldMode::kComplete).status().code(), StatusCode::kExhausted);
  EXPECT_TRUE(computer_.requests.empty());
  computer_.error = InvalidError("a token outside the vocabulary");
  EXPECT_EQ(Hold(Record(8, 'c', "bob", 900), HoldMode::kComplete).status().code(), StatusCode::kInvalid);
  computer_.error = ExhaustedError("all workers are busy");
  EXPECT_EQ(Hold(Record(8, 'c', "bob", 900), HoldMode::kComplete).status().code(), StatusCode::kUnavailable) << "not a matter of the cache's room";
}

TEST_F(CacheHolderTest, AHandleOfLessThanABlock) {
  Store& store = Add();
  const auto held = Hold(Record(3), HoldMode::kComplete);
  ASSERT_TRUE(held.ok());
  EXPECT_EQ(held->held, 0u);
  EXPECT_EQ(store.holds->List("alice", "", 10).size(), 1u);
  EXPECT_TRUE(computer_.requests.empty());
}

TEST_F(CacheHolderTest, ReleasedWhereverItMayBe) {
  Store& first = Add(1);
  const CacheRecord record = Record(12);
  first.Put(Keys(record), 0, 3);
  ASSERT_TRUE(Hold(record, HoldMode::kComplete).ok());
  Store& second = Add(2);  // chains may now belong to another store than before
  second.Put(Keys(record), 0, 3);
  ASSERT_TRUE(second.holds->Hold(record, Keys(record), true).ok());
  EXPECT_TRUE(Wait(holder_.Release(record.id)).ok());
  EXPECT_TRUE(first.holds->List("alice", "", 10).empty());
  EXPECT_TRUE(second.holds->List("alice", "", 10).empty());
  EXPECT_TRUE(Wait(holder_.Release("cache_unknown")).ok());
}

TEST_F(CacheHolderTest, StoredRecordsOfAllStoresAndPages) {
  for (uint32_t id = 1; id <= 2; ++id) {
    Store& store = Add(id);
    for (int i = 0; i < 40; ++i) {
      CacheRecord record = Record(3);
      record.id = fmt::format("cache_{:032x}", id * 1000 + i);
      ASSERT_TRUE(store.holds->Hold(record, {}, true).ok());
    }
  }
  EXPECT_EQ(Wait(holder_.Stored("alice", "")).size(), 80u);
  EXPECT_TRUE(Wait(holder_.Stored("bob", "")).empty());
  const auto one = Wait(holder_.Stored("alice", fmt::format("cache_{:032x}", 2005)));
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].tokens, Record(3).tokens);
  Kill(0);
  EXPECT_EQ(Wait(holder_.Stored("alice", "")).size(), 40u);
}

TEST_F(CacheHolderTest, AStoreThatDiesIsUnavailableAndReleaseSaysSo) {
  Store& store = Add();
  const CacheRecord record = Record(12);
  store.Put(Keys(record), 0, 3);
  ASSERT_TRUE(Hold(record, HoldMode::kComplete).ok());
  store.node->services = NodeServices();
  store.node = nullptr;  // its port is closed, and the members do not know yet
  EXPECT_EQ(Hold(record, HoldMode::kComplete).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(Wait(holder_.Release(record.id)).code(), StatusCode::kUnavailable);
  EXPECT_TRUE(Wait(holder_.Stored("alice", "")).empty());
  store.node = std::make_unique<TestNode>(io_);
}

TEST_F(CacheHolderTest, Explains) {
  EXPECT_EQ(Wait(holder_.Explain(Record(9).tokens, Root())).status().code(), StatusCode::kUnavailable);
  Store& store = Add();
  store.Put(Keys(Record(9)), 0, 1);
  const auto json = Wait(holder_.Explain(Record(9).tokens, Root()));
  ASSERT_TRUE(json.ok());
  const auto blocks = nlohmann::json::parse(*json)["blocks"];
  ASSERT_EQ(blocks.size(), 2u);
  EXPECT_EQ(blocks[0]["hit"], true);
  EXPECT_EQ(blocks[1]["hit"], false);
}

}  // namespace
}  // namespace baton
