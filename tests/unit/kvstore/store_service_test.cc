// The store's service and what it stands on: references that give themselves back, transfers into a pool, puts and look-ups of
// well-behaved and hostile callers.
#include "kvstore/store_service.h"

#include "kvstore/block_refs.h"
#include "kvstore/incoming_transfer.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"
#include "store_support.h"
#include "tests/support/loop_support.h"

namespace baton {
namespace {

constexpr size_t kBytes = 1024;

std::unique_ptr<BlockPool> Pool(size_t blocks = 16) { return std::move(BlockPool::Create(blocks, kBytes)).value(); }

TEST(BlockRefsTest, GiveThemselvesBackOnce) {
  auto pool = Pool();
  const auto take = [&](size_t n) { return BlockRefs(*pool, std::move(pool->Allocate(n)).value()); };
  {
    BlockRefs a = take(2);
    BlockRefs b = std::move(a);
    EXPECT_EQ(b.size(), 2u);
    EXPECT_EQ(pool->stats().referenced, 2u);
    BlockRefs c = take(3);
    c = std::move(b);
    EXPECT_EQ(c.size(), 2u);
    BlockRefs none;
    none.Append(std::move(c));
    none.Append(take(1));
    EXPECT_EQ(none.size(), 3u);
    none.Append(BlockRefs());
    EXPECT_EQ(none.size(), 3u);
  }
  EXPECT_EQ(pool->stats().referenced, 0u);
  const std::vector<BlockId> kept = take(2).Release();
  EXPECT_EQ(pool->stats().referenced, 2u) << "released ones are the caller's";
  for (const BlockId id : kept) pool->Unref(id);
}

TEST(TransferIdsTest, DifferByWorkerIncarnationAndCount) {
  std::vector<uint64_t> seen;
  for (const uint32_t worker : {1u, 2u}) {
    for (const uint64_t incarnation : {7ull, 8ull}) {
      TransferIds ids;
      ids.Restart(WorkerId(worker), Incarnation(incarnation));
      for (int i = 0; i < 3; ++i) seen.push_back(ids.Next().value);
    }
  }
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(std::adjacent_find(seen.begin(), seen.end()), seen.end());
  EXPECT_NE(seen.front(), 0u);
}

/// One end: a pool and a pump on the loop.
struct StoreEnd {
  StoreEnd(LoopQueue& loop, const Clock& clock, std::shared_ptr<LocalHub> hub, uint32_t id, Duration timeout)
      : pool(Pool()), pump(Make(std::move(hub), id, *pool), clock), context{loop, clock, *pool, pump, ids, timeout, WorkerId(id), Incarnation(1)} {
    ids.Restart(WorkerId(id), Incarnation(1));
  }
  static std::unique_ptr<Transport> Make(std::shared_ptr<LocalHub> hub, uint32_t id, BlockPool& pool) {
    TransportConfig config;
    config.kind = "local";
    config.self = WorkerId(id);
    config.incarnation = Incarnation(1);
    config.hub = std::move(hub);
    auto transport = std::move(MakeTransport(config)).value();
    EXPECT_TRUE(transport->Register({pool.arena()}).ok());
    return transport;
  }
  TransferPump::PeerEnd end() const { return {context.self, pump.address()}; }

  std::unique_ptr<BlockPool> pool;
  TransferIds ids;
  TransferPump pump;
  TransferContext context;
};

class StoreServiceTest : public LoopTest {
 protected:
  using OpenAnswer = capnp::Response<wire::Store::OpenResults>;
  using PutAnswer = capnp::Response<wire::Store::PutResults>;
  using FinishAnswer = capnp::Response<wire::PutSession::FinishResults>;

  StoreServiceTest() {
    BlockStoreConfig config;
    config.memory_bytes = 1 << 20;
    store_ = std::move(OpenBlockStore(config)).value();
    HoldLimits limits;
    limits.block_bytes = kBytes;
    limits.tenant_bytes = 8 * kBytes;
    holds_ = std::make_unique<HoldTable>(*store_, clock_, limits);
    Serve(std::chrono::seconds(20));
  }
  ~StoreServiceTest() noexcept override {
    client_ = nullptr;
    io_threads_ = nullptr;
    here_ = nullptr;
    there_ = nullptr;
    timer_.afterDelay(kj::MILLISECONDS).wait(io_.waitScope);
  }
  void Serve(Duration timeout) {
    client_ = nullptr;
    here_ = nullptr;
    there_ = nullptr;
    here_ = std::make_unique<StoreEnd>(loop_, clock_, hub_, 1, timeout);
    there_ = std::make_unique<StoreEnd>(loop_, clock_, hub_, 2, timeout);
    client_ = wire::Store::Client(kj::heap<StoreService>(there_->context, *store_, *holds_, *io_threads_));
  }
  wire::Store::Client& client() { return KJ_ASSERT_NONNULL(client_); }
  bool Idle() {
    return Until([&] { return here_->pool->stats().referenced == 0 && there_->pool->stats().referenced == 0; });
  }

  OpenAnswer Open(const std::vector<BlockKey>& keys) {
    auto call = client().openRequest();
    WriteKeys(keys, call.initKeys(static_cast<uint32_t>(keys.size())));
    return Wait(kj::Promise<OpenAnswer>(call.send()));
  }
  PutAnswer Put(const std::vector<TestBlock>& blocks, const std::function<void(wire::Store::PutParams::Builder)>& spoil = {}) {
    auto call = client().putRequest();
    auto headers = call.initHeaders(static_cast<uint32_t>(blocks.size()));
    for (uint32_t i = 0; i < blocks.size(); ++i) {
      const BlockHeader& h = blocks[i].header;
      headers[i].setKey(ToData(h.key));
      headers[i].setParent(ToData(h.parent));
      WriteDigest(h.digest, headers[i].initDigest());
      headers[i].setTokens(h.tokens);
      headers[i].setDepth(h.depth);
      WriteTokens(h.token_ids, headers[i].initTokenIds(static_cast<uint32_t>(h.token_ids.size())));
    }
    call.setBlockBytes(kBytes);
    call.setFrom(1);
    call.setTransportAddress(here_->pump.address());
    if (spoil) spoil(call);
    return Wait(kj::Promise<PutAnswer>(call.send()));
  }
  /// Pushes the wanted blocks and finishes.
  std::pair<Status, uint32_t> Finish(PutAnswer& answer, const std::vector<TestBlock>& blocks) {
    const auto wanted = answer.getWanted();
    std::vector<Segment> segments;
    for (uint32_t i = 0; i < wanted.size(); ++i) segments.push_back({i, blocks[wanted[i]].bytes.data(), kBytes});
    const TransferId id(answer.getTarget().getTransfer());
    here_->pump.Push(id, {WorkerId(answer.getTarget().getWorker()), ToString(answer.getTarget().getTransportAddress())}, segments);
    std::atomic<bool> over{false};
    here_->pump.CloseSend(id, [&](const Status&) { over = true; });
    auto session = answer.getSession();
    const FinishAnswer done = Wait(kj::Promise<FinishAnswer>(session.finishRequest().send()));
    EXPECT_TRUE(Until([&] { return over.load(); }));
    return {ReadStatus(done.getStatus()), done.getStored()};
  }

  LoopQueue loop_{io_.unixEventPort};
  SystemClock clock_;
  std::shared_ptr<LocalHub> hub_ = MakeLocalHub();
  std::unique_ptr<BlockStore> store_;
  std::unique_ptr<HoldTable> holds_;
  std::unique_ptr<TaskThreads> io_threads_ = std::make_unique<TaskThreads>(2);
  std::unique_ptr<StoreEnd> here_, there_;
  kj::Maybe<wire::Store::Client> client_;
};

TEST_F(StoreServiceTest, PutsAndGivesBack) {
  std::vector<TestBlock> blocks = MakeTestChain(1, 3, kBytes);
  for (TestBlock& block : blocks) block.header.extra.clear();  // of imported caches, which do not come this way
  {
    PutAnswer answer = Put(blocks);
    ASSERT_EQ(answer.getWanted().size(), 3u);
    const auto [status, stored] = Finish(answer, blocks);
    EXPECT_TRUE(status.ok()) << status.ToString();
    EXPECT_EQ(stored, 3u);
  }
  for (const TestBlock& block : blocks) {
    const auto read = store_->Read(block.header.key);
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(read->header, block.header);
    EXPECT_EQ(read->bytes, block.bytes);
  }
  EXPECT_TRUE(Idle());

  // And back, into the pool over here.
  OpenAnswer opened = Open(KeysOf(blocks));
  ASSERT_EQ(opened.getHeaders().size(), 3u);
  auto incoming = ExpectBlocks(here_->context, there_->end(), 3, 1, BlockDigests::kMade);
  ASSERT_TRUE(incoming.ok());
  auto push = opened.getLease().pushRequest();
  here_->context.WriteTarget(incoming->id, push.initTarget());
  auto pushed = kj::Promise<capnp::Response<wire::StoreLease::PushResults>>(push.send());
  auto landed = Wait(kj::mv(incoming->landed));
  ASSERT_TRUE(landed.ok()) << landed.status().ToString();
  EXPECT_TRUE(ReadStatus(Wait(kj::mv(pushed)).getStatus()).ok());
  std::vector<Digest128> digests;
  for (uint32_t i = 0; i < 3; ++i) {
    digests.push_back(ReadDigest(opened.getHeaders()[i].getDigest()));
    EXPECT_EQ(*ReadKey(opened.getHeaders()[i].getKey()), blocks[i].header.key);
    EXPECT_EQ(opened.getHeaders()[i].getTokens(), blocks[i].header.tokens);
  }
  EXPECT_TRUE(landed->Verify(digests).ok());
  digests[1].low ^= 1;
  EXPECT_EQ(landed->Verify(digests).code(), StatusCode::kDataLoss);
  digests.pop_back();
  EXPECT_EQ(landed->Verify(digests).code(), StatusCode::kDataLoss);
}

TEST_F(StoreServiceTest, WantsOnlyWhatItLacks) {
  const std::vector<TestBlock> blocks = MakeTestChain(1, 4, kBytes);
  ASSERT_TRUE(store_->Put(blocks[1].header, blocks[1].bytes).ok());
  PutAnswer answer = Put(blocks);
  std::vector<uint32_t> wanted;
  for (const uint32_t index : answer.getWanted()) wanted.push_back(index);
  EXPECT_EQ(wanted, (std::vector<uint32_t>{0, 2, 3}));
  EXPECT_EQ(Finish(answer, blocks).second, 3u);
  PutAnswer again = Put(blocks);
  EXPECT_TRUE(ReadStatus(again.getStatus()).ok());
  EXPECT_EQ(again.getWanted().size(), 0u);
  EXPECT_FALSE(again.hasSession());
  EXPECT_EQ(Put({}).getWanted().size(), 0u);
}

TEST_F(StoreServiceTest, BytesThatAreNotWhatTheHeaderSaysAreRefused) {
  std::vector<TestBlock> blocks = MakeTestChain(1, 3, kBytes);
  blocks[1].bytes[7] ^= std::byte{1};
  PutAnswer answer = Put(blocks);
  const auto [status, stored] = Finish(answer, blocks);
  EXPECT_EQ(status.code(), StatusCode::kInvalid);
  EXPECT_EQ(stored, 2u) << "the others are what they say";
  EXPECT_FALSE(store_->Read(blocks[1].header.key).ok());
  EXPECT_TRUE(Idle());
}

TEST_F(StoreServiceTest, FinishedOnce) {
  const std::vector<TestBlock> blocks = MakeTestChain(1, 1, kBytes);
  PutAnswer answer = Put(blocks);
  EXPECT_EQ(Finish(answer, blocks).second, 1u);
  auto session = answer.getSession();
  EXPECT_EQ(ReadStatus(Wait(kj::Promise<FinishAnswer>(session.finishRequest().send())).getStatus()).code(), StatusCode::kAborted);
}

TEST_F(StoreServiceTest, PutsThatAreRefused) {
  const std::vector<TestBlock> blocks = MakeTestChain(1, 2, kBytes);
  const auto code = [&](const std::function<void(wire::Store::PutParams::Builder)>& spoil) { return ReadStatus(Put(blocks, spoil).getStatus()).code(); };
  EXPECT_EQ(code([](auto p) { p.setBlockBytes(kBytes - 1); }), StatusCode::kInvalid);
  EXPECT_EQ(code([](auto p) { p.setBlockBytes(0); }), StatusCode::kInvalid);
  EXPECT_EQ(code([](auto p) { p.getHeaders()[1].initKey(31); }), StatusCode::kInvalid);
  EXPECT_EQ(code([](auto p) { p.getHeaders()[0].initParent(0); }), StatusCode::kInvalid);
  EXPECT_EQ(code([](auto p) { p.getHeaders()[0].initTokenIds(BlockHeader::kMaxTokenIds + 1); }), StatusCode::kInvalid);
  EXPECT_EQ(code([](auto p) { p.initHeaders(65); }), StatusCode::kInvalid);
  EXPECT_TRUE(Idle());
  EXPECT_EQ(store_->stats().puts, 0u);
}

TEST_F(StoreServiceTest, APutFromNobodyEndsWithItsReason) {
  const std::vector<TestBlock> blocks = MakeTestChain(1, 2, kBytes);
  PutAnswer answer = Put(blocks, [](auto p) { p.setFrom(0); });
  auto session = answer.getSession();
  EXPECT_EQ(ReadStatus(Wait(kj::Promise<FinishAnswer>(session.finishRequest().send())).getStatus()).code(), StatusCode::kInvalid);
  EXPECT_TRUE(Idle());
}

TEST_F(StoreServiceTest, StagingIsBounded) {
  const std::vector<TestBlock> blocks = MakeTestChain(1, 10, kBytes), others = MakeTestChain(50, 10, kBytes);
  {
    PutAnswer first = Put(blocks);
    EXPECT_EQ(ReadStatus(Put(others).getStatus()).code(), StatusCode::kExhausted) << "16 landing blocks, 10 of them taken";
    EXPECT_EQ(there_->pool->stats().referenced, 10u);
  }
  EXPECT_TRUE(Idle()) << "a dropped session gives its landings back";
  PutAnswer now = Put(others);
  EXPECT_EQ(Finish(now, others).second, 10u);
}

TEST_F(StoreServiceTest, BytesThatNeverComeEndWithTheDeadline) {
  Serve(std::chrono::milliseconds(20));
  const std::vector<TestBlock> blocks = MakeTestChain(1, 2, kBytes);
  PutAnswer answer = Put(blocks);
  auto session = answer.getSession();
  EXPECT_EQ(ReadStatus(Wait(kj::Promise<FinishAnswer>(session.finishRequest().send())).getStatus()).code(), StatusCode::kDeadline);
  EXPECT_TRUE(Idle());
}

TEST_F(StoreServiceTest, OpenGivesTheLongestPrefixThatVerifies) {
  const std::vector<TestBlock> blocks = MakeTestChain(1, 4, kBytes);
  for (const size_t i : {0, 1, 3}) ASSERT_TRUE(store_->Put(blocks[i].header, blocks[i].bytes).ok());
  EXPECT_EQ(Open(KeysOf(blocks)).getHeaders().size(), 2u);
  const OpenAnswer miss = Open({TestKey(999)});
  EXPECT_EQ(miss.getHeaders().size(), 0u);
  EXPECT_FALSE(miss.hasLease());
  EXPECT_EQ(Open({}).getHeaders().size(), 0u);
}

TEST_F(StoreServiceTest, BlocksOfAnotherSizeAreNobodys) {
  const TestBlock small = MakeTestBlock(1, kBytes / 2);
  ASSERT_TRUE(store_->Put(small.header, small.bytes).ok());
  const OpenAnswer answer = Open({small.header.key});
  EXPECT_EQ(answer.getHeaders().size(), 0u);
  EXPECT_FALSE(answer.hasLease());
}

TEST_F(StoreServiceTest, HostileLookups) {
  auto short_key = client().openRequest();
  short_key.initKeys(1).init(0, 31);
  EXPECT_EQ(ReadStatus(Wait(kj::Promise<OpenAnswer>(short_key.send())).getStatus()).code(), StatusCode::kInvalid);
  const std::vector<BlockKey> many(4097, TestKey(1));
  EXPECT_EQ(ReadStatus(Open(many).getStatus()).code(), StatusCode::kInvalid);
  auto lookup = client().lookupRequest();
  lookup.initKeys(1).init(0, 5);
  EXPECT_EQ(Wait(kj::Promise<capnp::Response<wire::Store::LookupResults>>(lookup.send())).getCount(), 0u);
}

TEST_F(StoreServiceTest, APushToNowhereSaysSo) {
  const TestBlock block = MakeTestBlock(1, kBytes);
  ASSERT_TRUE(store_->Put(block.header, block.bytes).ok());
  OpenAnswer opened = Open({block.header.key});
  auto push = opened.getLease().pushRequest();
  push.initTarget().setTransfer(5);  // no worker, no address
  EXPECT_EQ(ReadStatus(Wait(kj::Promise<capnp::Response<wire::StoreLease::PushResults>>(push.send())).getStatus()).code(), StatusCode::kInvalid);
}

TEST_F(StoreServiceTest, TheLeaseKeepsTheBytes) {
  const std::vector<TestBlock> blocks = MakeTestChain(1, 2, kBytes);
  for (const TestBlock& block : blocks) ASSERT_TRUE(store_->Put(block.header, block.bytes).ok());
  OpenAnswer opened = Open(KeysOf(blocks));
  for (const TestBlock& block : blocks) ASSERT_TRUE(store_->Remove(block.header.key).ok());
  auto incoming = ExpectBlocks(here_->context, there_->end(), 2, 1, BlockDigests::kMade);
  ASSERT_TRUE(incoming.ok());
  auto push = opened.getLease().pushRequest();
  here_->context.WriteTarget(incoming->id, push.initTarget());
  auto pushed = kj::Promise<capnp::Response<wire::StoreLease::PushResults>>(push.send()).eagerlyEvaluate(nullptr);
  auto landed = Wait(kj::mv(incoming->landed));
  ASSERT_TRUE(landed.ok());
  EXPECT_TRUE(landed->Verify({blocks[0].header.digest, blocks[1].header.digest}).ok());
}

TEST_F(StoreServiceTest, StatsLookupAndFlush) {
  const TestBlock block = MakeTestBlock(1, kBytes);
  ASSERT_TRUE(store_->Put(block.header, block.bytes).ok());
  auto lookup = client().lookupRequest();
  WriteKeys(std::vector<BlockKey>{block.header.key, TestKey(2)}, lookup.initKeys(2));
  EXPECT_EQ(Wait(kj::Promise<capnp::Response<wire::Store::LookupResults>>(lookup.send())).getCount(), 1u);
  auto flush = kj::Promise<capnp::Response<wire::Store::FlushResults>>(client().flushRequest().send());
  EXPECT_TRUE(ReadStatus(Wait(kj::mv(flush)).getStatus()).ok());
  const auto stats = Wait(kj::Promise<capnp::Response<wire::Store::StatsResults>>(client().statsRequest().send()));
  const auto json = nlohmann::json::parse(ToString(stats.getJson()));
  EXPECT_EQ(json.at("blocks_memory"), 1);
  EXPECT_EQ(json.at("bytes_memory"), kBytes);
}

TEST_F(StoreServiceTest, LandingsOfAnExpectThatIsDroppedComeBack) {
  {
    auto incoming = ExpectBlocks(here_->context, there_->end(), 16, 2, BlockDigests::kNone);
    ASSERT_TRUE(incoming.ok());
    EXPECT_EQ(here_->pool->stats().referenced, 16u);
    EXPECT_EQ(ExpectBlocks(here_->context, there_->end(), 1, 1, BlockDigests::kNone).status().code(), StatusCode::kExhausted);
  }
  EXPECT_TRUE(Idle());
}

TEST_F(StoreServiceTest, AFirstBlockNamesItsTenant) {
  BlockStoreConfig config;
  config.memory_bytes = 1 << 20;
  config.tenant_bytes = 4 * kBytes;
  client_ = nullptr;
  holds_ = nullptr;
  store_ = std::move(OpenBlockStore(config)).value();
  holds_ = std::make_unique<HoldTable>(*store_, clock_, HoldLimits());
  Serve(std::chrono::seconds(20));
  const std::vector<TestBlock> blocks = MakeTestChain(1, 3, kBytes);
  PutAnswer answer = Put(blocks, [](wire::Store::PutParams::Builder params) { params.getHeaders()[0].setTenant("alice"); });
  EXPECT_TRUE(Finish(answer, blocks).first.ok());
  EXPECT_EQ(store_->tenants()["alice"].blocks, 3u);
  EXPECT_EQ(store_->tenants()[""].blocks, 0u);
}

}  // namespace
}  // namespace baton
