// Why a prompt's blocks are there or not, and the log of evictions that remembers.
#include "kvstore/explain.h"

#include <nlohmann/json.hpp>

#include "kvstore/eviction_log.h"
#include "store_support.h"

namespace baton {
namespace {

constexpr size_t kBytes = 4096, kBlock = 8;
using Reason = BlockVerdict::Reason;

class ExplainTest : public ::testing::Test {
 protected:
  ExplainTest() { Open(64); }
  void Open(uint64_t memory_blocks, const std::string& path = "", bool read_only = false) {
    store_ = nullptr;
    BlockStoreConfig config = TestConfig(path, memory_blocks * kBytes);
    config.read_only = read_only;
    store_ = OpenTestStore(config);
  }
  static BlockKey Root(const std::string& salt = "") { return RootKey({Sha256(AsBytes("model")), "layout", "exact", salt}); }
  static std::vector<TokenId> Tokens(size_t n, TokenId first = 100) {
    std::vector<TokenId> tokens;
    for (size_t i = 0; i < n; ++i) tokens.push_back(first + static_cast<TokenId>(i));
    return tokens;
  }
  void Store(std::span<const TokenId> tokens, const BlockKey& root = Root(), size_t from = 0) {
    const auto keys = KeyChain(root, tokens, kBlock);
    for (size_t i = from; i < keys.size(); ++i) {
      TestBlock block = MakeTestBlock(keys[i].Prefix64(), kBytes);
      block.header.key = keys[i];
      block.header.parent = i == 0 ? root : keys[i - 1];
      block.header.depth = static_cast<uint32_t>(i);
      block.header.tokens = kBlock;
      block.header.token_ids.assign(tokens.begin() + i * kBlock, tokens.begin() + (i + 1) * kBlock);
      ASSERT_TRUE(store_->Put(block.header, block.bytes).ok());
    }
  }
  std::vector<BlockVerdict> Explain(std::span<const TokenId> tokens, const BlockKey& root = Root()) { return ExplainBlocks(*store_, root, tokens, kBlock); }
  static std::string Names(const std::vector<BlockVerdict>& verdicts) {
    std::string names;
    for (const BlockVerdict& verdict : verdicts) names += std::string(names.empty() ? "" : " ") + verdict.name();
    return names;
  }

  TempFolder folder_;
  std::unique_ptr<BlockStore> store_;
};

TEST_F(ExplainTest, HitsAndWhatWasNeverStored) {
  Store(Tokens(24));
  const auto verdicts = Explain(Tokens(36));
  EXPECT_EQ(Names(verdicts), "hit hit hit never_stored") << "tokens behind the last full block are nobody's";
  EXPECT_TRUE(verdicts[0].memory);
  EXPECT_FALSE(verdicts[0].disk);
  EXPECT_EQ(Names(Explain(Tokens(16, 5000))), "token_differs never_stored");
  EXPECT_TRUE(Explain(Tokens(7)).empty());
}

TEST_F(ExplainTest, SaysWhichTokenDiffers) {
  Store(Tokens(32));
  for (const size_t position : {size_t{8}, size_t{13}, size_t{15}}) {
    auto tokens = Tokens(32);
    tokens[position] = 7;
    const auto verdicts = Explain(tokens);
    EXPECT_EQ(Names(verdicts), "hit token_differs never_stored never_stored");
    EXPECT_EQ(verdicts[1].position, position);
    EXPECT_EQ(verdicts[1].asked, 7);
    EXPECT_EQ(verdicts[1].stored, static_cast<TokenId>(100 + position));
  }
  auto tokens = Tokens(32);
  tokens[0] = 7;
  EXPECT_EQ(Explain(tokens)[0].position, 0u);
}

TEST_F(ExplainTest, ComparesWithTheNearestOfSeveral) {
  for (const size_t position : {size_t{9}, size_t{14}, size_t{11}}) {
    auto tokens = Tokens(16);
    tokens[position] = static_cast<TokenId>(position);
    Store(tokens);
  }
  const auto verdicts = Explain(Tokens(16));
  EXPECT_EQ(verdicts[1].position, 14u) << "the one that agrees longest";
  EXPECT_EQ(verdicts[1].stored, 14);
}

TEST_F(ExplainTest, AnotherTenantsBlocksAreNamedAsSuch) {
  Store(Tokens(24), Root("alice"));
  EXPECT_EQ(Names(Explain(Tokens(24), Root("bob"))), "salt never_stored never_stored");
  EXPECT_EQ(Names(Explain(Tokens(24), Root("alice"))), "hit hit hit");
}

TEST_F(ExplainTest, ABlockBehindAHole) {
  Store(Tokens(32));
  const auto keys = KeyChain(Root(), Tokens(32), kBlock);
  ASSERT_TRUE(store_->Remove(keys[1]).ok());
  EXPECT_EQ(Names(Explain(Tokens(32))), "hit never_stored parent_missing parent_missing");
}

TEST_F(ExplainTest, EvictedAndWhen) {
  Open(4);
  const double before = SystemClock().UnixSeconds();
  Store(Tokens(32));
  Store(Tokens(16, 900));
  const auto verdicts = Explain(Tokens(32));
  EXPECT_EQ(Names(verdicts), "hit hit evicted evicted");
  EXPECT_GE(verdicts[2].evicted_unix_s, before);
  EXPECT_LE(verdicts[2].evicted_unix_s, SystemClock().UnixSeconds());
  Open(64);
  Store(Tokens(32));
  EXPECT_EQ(Names(Explain(Tokens(32))), "hit hit hit hit");
}

TEST_F(ExplainTest, ComingAgainEndsAnEviction) {
  Open(4);
  Store(Tokens(32));
  Store(Tokens(8, 900));
  EXPECT_TRUE(store_->EvictedAt(KeyChain(Root(), Tokens(32), kBlock)[3]).has_value());
  Store(Tokens(32));
  EXPECT_FALSE(store_->EvictedAt(KeyChain(Root(), Tokens(32), kBlock)[3]).has_value());
}

TEST_F(ExplainTest, LooksAreNoUse) {
  Open(4);
  Store(Tokens(16));
  Store(Tokens(16, 900));
  const BlockStoreStats before = store_->stats();
  Explain(Tokens(16));  // the older chain must stay the one that leaves
  EXPECT_EQ(store_->stats().hits_memory, before.hits_memory);
  EXPECT_EQ(store_->stats().misses, before.misses);
  Store(Tokens(8, 500));
  EXPECT_EQ(Names(Explain(Tokens(16))), "hit evicted");
  EXPECT_EQ(Names(Explain(Tokens(16, 900))), "hit hit");
}

TEST_F(ExplainTest, OfAFolderThatAnotherProcessServes) {
  Open(64, folder_.path());
  Store(Tokens(24));
  ASSERT_TRUE(store_->Flush().ok());
  const auto serving = std::move(store_);
  Open(64, folder_.path(), true);
  auto tokens = Tokens(24);
  tokens[20] = 1;
  const auto verdicts = Explain(tokens);
  EXPECT_EQ(Names(verdicts), "hit hit token_differs");
  EXPECT_TRUE(verdicts[0].disk);
  EXPECT_EQ(verdicts[2].position, 20u);
}

TEST_F(ExplainTest, EvictionsAreRememberedOverARestart) {
  BlockStoreConfig config = TestConfig(folder_.path(), 4 * kBytes, 1 << 20);
  store_ = nullptr;
  store_ = OpenTestStore(config);
  for (TokenId first = 1000; first < 1000 + 300 * 8; first += 8) Store(Tokens(8, first));
  ASSERT_TRUE(store_->Flush().ok());
  ASSERT_GT(store_->stats().evictions, 0u);
  store_ = nullptr;
  store_ = OpenTestStore(config);
  const auto verdicts = Explain(Tokens(8, 1000));
  EXPECT_EQ(Names(verdicts), "evicted");
  EXPECT_GT(verdicts[0].evicted_unix_s, 1.6e9);
}

TEST_F(ExplainTest, AsJson) {
  Store(Tokens(16));
  auto tokens = Tokens(24);
  tokens[10] = 3;
  const auto verdicts = Explain(tokens);
  auto hit = nlohmann::json::parse(VerdictJson(verdicts[0])), differs = nlohmann::json::parse(VerdictJson(verdicts[1]));
  EXPECT_EQ(hit["hit"], true);
  EXPECT_EQ(hit["reason"], "hit");
  EXPECT_EQ(hit["tiers"], nlohmann::json::array({"memory"}));
  EXPECT_EQ(hit["block"], 0);
  EXPECT_EQ(differs["hit"], false);
  EXPECT_EQ(differs["reason"], "token_differs");
  EXPECT_EQ(differs["position"], 10);
  EXPECT_EQ(differs["asked"], 3);
  EXPECT_EQ(differs["stored"], 110);
  EXPECT_FALSE(differs.contains("evicted_at"));
  BlockVerdict evicted;
  evicted.reason = Reason::kEvicted;
  evicted.evicted_unix_s = 5;
  EXPECT_EQ(nlohmann::json::parse(VerdictJson(evicted))["evicted_at"], 5.0);
}

class EvictionLogTest : public ::testing::Test {
 protected:
  EvictionLogTest() { std::filesystem::create_directories(folder_.path("x")); }
  std::string path() const { return folder_.path("x") + "/evictions"; }
  void Save(EvictionLog& log) { log.Write(log.Take()); }

  TempFolder folder_;
  std::unique_ptr<FileLayer> files_ = MakeSystemFiles();
};

TEST_F(EvictionLogTest, RemembersTheLast) {
  EvictionLog log;
  EXPECT_FALSE(log.Find(TestKey(1)).has_value());
  log.Record(TestKey(1), 10);
  log.Record(TestKey(2), 20);
  log.Record(TestKey(1), 30);
  EXPECT_EQ(log.Find(TestKey(1)), 30.0);
  EXPECT_EQ(log.Find(TestKey(2)), 20.0);
  log.Forget(TestKey(1));
  EXPECT_FALSE(log.Find(TestKey(1)).has_value());
}

TEST_F(EvictionLogTest, IsARing) {
  EvictionLog log;
  for (uint64_t i = 0; i < EvictionLog::kEntries + 10; ++i) log.Record(TestKey(i), static_cast<double>(i));
  for (uint64_t i = 0; i < 10; ++i) EXPECT_FALSE(log.Find(TestKey(i)).has_value()) << i;
  EXPECT_EQ(log.Find(TestKey(10)), 10.0);
  EXPECT_EQ(log.Find(TestKey(EvictionLog::kEntries + 9)), static_cast<double>(EvictionLog::kEntries + 9));
}

TEST_F(EvictionLogTest, GoesOnAfterARestart) {
  for (uint64_t round = 0; round < 3; ++round) {
    EvictionLog log;
    log.Open(*files_, path(), false);
    for (uint64_t i = 0; i < 100 * round; ++i) EXPECT_EQ(log.Find(TestKey(i)), static_cast<double>(i)) << round;
    for (uint64_t i = 0; i < 100; ++i) log.Record(TestKey(100 * round + i), static_cast<double>(100 * round + i));
    Save(log);
  }
  EXPECT_EQ(FileSize(path()), 300u * 48);
  EvictionLog reader;
  reader.Open(*files_, path(), true);
  EXPECT_EQ(reader.Find(TestKey(299)), 299.0);
}

TEST_F(EvictionLogTest, DamageIsForgottenAndNothingElse) {
  {
    EvictionLog log;
    log.Open(*files_, path(), false);
    for (uint64_t i = 0; i < 10; ++i) log.Record(TestKey(i), 1);
    Save(log);
  }
  FlipByte(path(), 48 * 3 + 41);  // the number of entry 3
  FlipByte(path(), 48 * 5);       // the key of entry 5
  std::filesystem::resize_file(path(), 48 * 9 + 20);
  EvictionLog log;
  log.Open(*files_, path(), false);
  for (uint64_t i = 0; i < 10; ++i) EXPECT_EQ(log.Find(TestKey(i)).has_value(), i != 3 && i != 5 && i != 9) << i;
}

TEST_F(EvictionLogTest, AnAbsentOrFailingFileIsNoOnesLoss) {
  EvictionLog absent;
  absent.Open(*files_, folder_.path("nowhere") + "/deep/evictions", false);
  absent.Record(TestKey(1), 1);
  Save(absent);
  EXPECT_EQ(absent.Find(TestKey(1)), 1.0);
  FaultyFiles faulty;
  EvictionLog log;
  log.Open(faulty, path(), false);
  faulty.writes_until_full = 0;
  log.Record(TestKey(1), 1);
  Save(log);
  EXPECT_EQ(log.Find(TestKey(1)), 1.0);
}

}  // namespace
}  // namespace baton
