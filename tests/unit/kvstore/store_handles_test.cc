// The store service's calls about cache handles, of well-behaved and hostile callers.
#include "kvstore/store_service.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"
#include "store_support.h"
#include "tests/support/loop_support.h"

namespace baton {
namespace {

constexpr size_t kBytes = 1024;

class StoreHandlesTest : public LoopTest {
 protected:
  StoreHandlesTest() {
    BlockStoreConfig config;
    config.memory_bytes = 1 << 20;
    store_ = std::move(OpenBlockStore(config)).value();
    HoldLimits limits;
    limits.block_bytes = kBytes;
    limits.tenant_bytes = 8 * kBytes;
    holds_ = std::make_unique<HoldTable>(*store_, clock_, limits);
    TransportConfig transport;
    transport.kind = "local";
    transport.self = WorkerId(1);
    transport.hub = MakeLocalHub();
    pump_ = std::make_unique<TransferPump>(std::move(MakeTransport(transport)).value(), clock_);
    context_.emplace(TransferContext{loop_, clock_, *pool_, *pump_, ids_, std::chrono::seconds(20), WorkerId(1), Incarnation(1)});
    client_ = wire::Store::Client(kj::heap<StoreService>(*context_, *store_, *holds_, *threads_));
  }
  ~StoreHandlesTest() noexcept override {
    client_ = nullptr;
    threads_ = nullptr;
    pump_ = nullptr;
    timer_.afterDelay(kj::MILLISECONDS).wait(io_.waitScope);
  }
  wire::Store::Client& client() { return KJ_ASSERT_NONNULL(client_); }
  std::vector<BlockKey> Chain(uint64_t name, size_t blocks) {
    for (const TestBlock& block : MakeTestChain(name, blocks, kBytes)) EXPECT_TRUE(store_->Put(block.header, block.bytes).ok());
    return KeysOf(MakeTestChain(name, blocks, kBytes));
  }
  static CacheRecord Record(char digit, std::string tenant = "alice", double expires = 0) {
    return {"cache_" + std::string(32, digit), std::move(tenant), {5, 6, 7}, 1.5, expires};
  }
  Result<HeldBlocks> Hold(const CacheRecord& record, const std::vector<BlockKey>& keys, bool all = true) {
    auto call = client().holdRequest();
    WriteCacheRecord(record, call.initRecord());
    WriteKeys(keys, call.initKeys(static_cast<uint32_t>(keys.size())));
    call.setAll(all);
    const auto answer = Wait(kj::Promise<capnp::Response<wire::Store::HoldResults>>(call.send()));
    RETURN_IF_ERROR(ReadStatus(answer.getStatus()));
    return ReadHeldBlocks(answer.getBlocks());
  }
  void Release(const std::string& id) {
    auto call = client().releaseRequest();
    call.setId(id);
    EXPECT_TRUE(ReadStatus(Wait(kj::Promise<capnp::Response<wire::Store::ReleaseResults>>(call.send())).getStatus()).ok());
  }
  std::pair<std::vector<CacheRecord>, bool> List(const std::string& tenant, const std::string& id = "", const std::string& after = "") {
    auto call = client().holdsRequest();
    call.setTenant(tenant);
    call.setId(id);
    call.setAfter(after);
    const auto answer = Wait(kj::Promise<capnp::Response<wire::Store::HoldsResults>>(call.send()));
    std::vector<CacheRecord> records;
    for (const auto record : answer.getRecords()) records.push_back(ReadCacheRecord(record));
    return {records, answer.getMore()};
  }

  SystemClock clock_;
  LoopQueue loop_{io_.unixEventPort};
  std::unique_ptr<BlockStore> store_;
  std::unique_ptr<HoldTable> holds_;
  std::unique_ptr<BlockPool> pool_ = std::move(BlockPool::Create(4, kBytes)).value();
  std::unique_ptr<TransferPump> pump_;
  TransferIds ids_;
  std::optional<TransferContext> context_;
  std::unique_ptr<TaskThreads> threads_ = std::make_unique<TaskThreads>(2);
  kj::Maybe<wire::Store::Client> client_;
};

TEST_F(StoreHandlesTest, HoldsAndReleases) {
  const auto keys = Chain(100, 4);
  const auto held = Hold(Record('a'), keys);
  ASSERT_TRUE(held.ok()) << held.status().message();
  EXPECT_EQ(*held, (HeldBlocks{4, 4, 0, 4 * kBytes}));
  EXPECT_EQ(store_->stats().pinned, 4u);
  EXPECT_EQ(List("alice").first, std::vector<CacheRecord>{Record('a')}) << "every field comes back";
  EXPECT_EQ(List("alice", Record('a').id).first.size(), 1u);
  EXPECT_TRUE(List("bob", Record('a').id).first.empty());
  EXPECT_TRUE(List("bob").first.empty());
  Release(Record('a').id);
  Release(Record('a').id);
  Release("nonsense");
  EXPECT_EQ(store_->stats().pinned, 0u);
  EXPECT_TRUE(List("alice").first.empty());
}

TEST_F(StoreHandlesTest, WhatIsRefusedIsSaid) {
  EXPECT_EQ(Hold(Record('a'), Chain(100, 9)).status().code(), StatusCode::kInvalid) << "nine blocks of a quota of eight";
  ASSERT_TRUE(Hold(Record('a'), Chain(200, 5)).ok());
  EXPECT_EQ(Hold(Record('b'), Chain(300, 5)).status().code(), StatusCode::kExhausted);
  EXPECT_TRUE(Hold(Record('b', "bob"), Chain(300, 5)).ok());
  CacheRecord bad = Record('c');
  bad.id = "../x";
  EXPECT_EQ(Hold(bad, {}).status().code(), StatusCode::kInvalid);
  EXPECT_EQ(Hold(Record('c', "alice", 1), {}).status().code(), StatusCode::kInvalid) << "expired in 1970";
}

TEST_F(StoreHandlesTest, MissingBlocksAreCountedAndNothingIsHeld) {
  auto keys = Chain(100, 3);
  keys.push_back(TestKey(9999));
  EXPECT_EQ(Hold(Record('a'), keys)->held, 3u);
  EXPECT_TRUE(List("alice").first.empty());
  EXPECT_EQ(Hold(Record('a'), keys, false)->held, 3u);
  EXPECT_EQ(List("alice").first.size(), 1u);
}

TEST_F(StoreHandlesTest, HostileCalls) {
  auto call = client().holdRequest();
  WriteCacheRecord(Record('a'), call.initRecord());
  call.initKeys(2).set(0, kj::arrayPtr(reinterpret_cast<const kj::byte*>("short"), 5));
  EXPECT_EQ(ReadStatus(Wait(kj::Promise<capnp::Response<wire::Store::HoldResults>>(call.send())).getStatus()).code(), StatusCode::kInvalid);
  auto many = client().holdRequest();
  WriteCacheRecord(Record('a'), many.initRecord());
  WriteKeys(std::vector<BlockKey>(70000, TestKey(1)), many.initKeys(70000));
  EXPECT_EQ(ReadStatus(Wait(kj::Promise<capnp::Response<wire::Store::HoldResults>>(many.send())).getStatus()).code(), StatusCode::kInvalid);
  EXPECT_TRUE(List("").first.empty());
  for (const uint32_t block_tokens : {0u, 8u}) {
    auto explain = client().explainRequest();
    explain.setBlockTokens(block_tokens);
    if (block_tokens == 0) explain.setRoot(ToData(TestKey(1)));
    EXPECT_EQ(ReadStatus(Wait(kj::Promise<capnp::Response<wire::Store::ExplainResults>>(explain.send())).getStatus()).code(), StatusCode::kInvalid);
  }
}

TEST_F(StoreHandlesTest, ListsComeInPages) {
  std::set<std::string> ids;
  for (int i = 0; i < 40; ++i) {
    CacheRecord record = Record('a');
    record.id = fmt::format("cache_{:032x}", i * 7919);
    ASSERT_TRUE(Hold(record, {}).ok());
    ids.insert(record.id);
  }
  std::set<std::string> seen;
  std::string after;
  for (bool more = true; more;) {
    const auto [records, there_is_more] = List("alice", "", after);
    ASSERT_FALSE(records.empty());
    for (const CacheRecord& record : records) EXPECT_TRUE(seen.insert(record.id).second) << "told twice";
    after = records.back().id;
    more = there_is_more;
  }
  EXPECT_EQ(seen, ids);
}

TEST_F(StoreHandlesTest, Explains) {
  const std::vector<TokenId> tokens(20, 4);
  const BlockKey root = TestKey(77);
  auto call = client().explainRequest();
  call.setRoot(ToData(root));
  WriteTokens(tokens, call.initTokens(20));
  call.setBlockTokens(8);
  const auto answer = Wait(kj::Promise<capnp::Response<wire::Store::ExplainResults>>(call.send()));
  ASSERT_TRUE(ReadStatus(answer.getStatus()).ok());
  const auto blocks = nlohmann::json::parse(ToString(answer.getJson())).at("blocks");
  ASSERT_EQ(blocks.size(), 2u);
  EXPECT_EQ(blocks[0]["key"], KeyChain(root, tokens, 8)[0].ToHex());
  EXPECT_EQ(blocks[1]["reason"], "never_stored");
}

}  // namespace
}  // namespace baton
