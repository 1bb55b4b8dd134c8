// Holds of cache handles in a store: what they keep from eviction, quotas, what survives a restart, and damaged records.
#include "kvstore/hold_table.h"

#include <limits>
#include <filesystem>
#include <fstream>

#include "base/random.h"
#include "store_support.h"

namespace baton {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBytes = 4096;

std::vector<TestBlock> MakeChain(const std::string& name, size_t blocks, size_t bytes) { return MakeTestChain(Xxh3_64(AsBytes(name)) >> 16 << 8 | 1, blocks, bytes); }

class HoldTableTest : public ::testing::Test {
 protected:
  HoldTableTest() { Open(); }
  void Open(uint64_t memory_blocks = 64, HoldLimits limits = {}) {
    holds_ = nullptr;
    store_ = nullptr;
    BlockStoreConfig config;
    config.memory_bytes = memory_blocks * kBytes;
    config.block_bytes = kBytes;
    config.path = store_path_;
    BlockStoreDeps deps;
    deps.clock = &clock_;
    store_ = std::move(OpenBlockStore(config, deps)).value();
    Reload(std::move(limits));
  }
  /// A new table over the same store.
  void Reload(HoldLimits limits = {}) {
    limits.block_bytes = kBytes;
    if (!store_path_.empty()) limits.folder = store_path_ + "/handles";
    holds_ = std::make_unique<HoldTable>(*store_, clock_, limits);
    ASSERT_TRUE(holds_->Load().ok());
  }
  /// A chain of blocks in the store; `name` makes it another one.
  std::vector<BlockKey> Chain(const std::string& name, size_t blocks) {
    const std::vector<TestBlock> chain = MakeChain(name, blocks, kBytes);
    std::vector<BlockKey> keys;
    for (const TestBlock& block : chain) {
      EXPECT_TRUE(store_->Put(block.header, block.bytes).ok());
      keys.push_back(block.header.key);
    }
    return keys;
  }
  CacheRecord Record(char digit, std::string tenant = "", double ttl_s = 100) {
    const double now = clock_.UnixSeconds();
    return {"cache_" + std::string(32, digit), std::move(tenant), {1, 2, 3}, now, ttl_s == 0 ? 0 : now + ttl_s};
  }
  /// Puts so many other blocks that whatever is not held goes.
  void Flood() {
    for (int i = 0; i < 40; ++i) Chain("flood" + std::to_string(floods_) + "." + std::to_string(i), 3);
    ++floods_;
  }
  size_t Held(std::span<const BlockKey> keys) { return store_->Lookup(keys); }

  FakeClock clock_;
  std::string store_path_;
  std::unique_ptr<BlockStore> store_;
  std::unique_ptr<HoldTable> holds_;
  int floods_ = 0;
};

TEST_F(HoldTableTest, HeldBlocksOutliveAFlood) {
  const auto held = Chain("held", 5), free = Chain("free", 5);
  const auto report = holds_->Hold(Record('a'), held, true);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(*report, (HeldBlocks{5, 5, 0, 5 * kBytes}));
  Flood();
  EXPECT_EQ(Held(held), 5u);
  EXPECT_EQ(Held(free), 0u);
  holds_->Release(Record('a').id);
  Flood();
  EXPECT_EQ(Held(held), 0u) << "released, they go like any other";
}

TEST_F(HoldTableTest, AllOrNothing) {
  auto keys = Chain("held", 4);
  const auto missing = MakeChain("other", 1, kBytes)[0].header.key;
  std::vector<BlockKey> with_a_hole = keys;
  with_a_hole[2] = missing;
  const auto report = holds_->Hold(Record('a'), with_a_hole, true);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->held, 2u) << "the leading ones";
  EXPECT_EQ(report->memory, 3u);
  EXPECT_TRUE(holds_->Find("", Record('a').id).empty()) << "nothing was held";
  Flood();
  EXPECT_EQ(Held(keys), 0u);
}

TEST_F(HoldTableTest, AsFarAsTheyAreThere) {
  const auto keys = Chain("held", 4);
  std::vector<BlockKey> longer = keys;
  longer.push_back(MakeChain("other", 1, kBytes)[0].header.key);
  ASSERT_TRUE(holds_->Hold(Record('a'), longer, false).ok());
  EXPECT_EQ(holds_->Find("", Record('a').id).size(), 1u);
  Flood();
  EXPECT_EQ(Held(keys), 4u);
}

TEST_F(HoldTableTest, SharedBlocksStayUntilTheLastHandleGoes) {
  const auto keys = Chain("shared", 4);
  ASSERT_TRUE(holds_->Hold(Record('a', "", 1000), keys, true).ok());
  ASSERT_TRUE(holds_->Hold(Record('b', "", 10), std::span(keys).first(2), true).ok());
  holds_->Release(Record('a').id);
  Flood();
  EXPECT_EQ(Held(keys), 2u) << "what the other names";
  clock_.Advance(std::chrono::seconds(11));
  holds_->Expire();
  Flood();
  EXPECT_EQ(Held(keys), 0u) << "the longer pin of the released handle does not outlive it";
}

TEST_F(HoldTableTest, TheShorterLivedMayGoFirst) {
  const auto keys = Chain("shared", 3);
  ASSERT_TRUE(holds_->Hold(Record('a', "", 10), keys, true).ok());
  ASSERT_TRUE(holds_->Hold(Record('b', "", 1000), keys, true).ok());
  clock_.Advance(std::chrono::seconds(500));
  holds_->Expire();
  Flood();
  EXPECT_EQ(Held(keys), 3u);
}

TEST_F(HoldTableTest, ExpiryGivesTheBlocksFree) {
  const auto keys = Chain("held", 3);
  ASSERT_TRUE(holds_->Hold(Record('a', "", 60), keys, true).ok());
  clock_.Advance(std::chrono::seconds(59));
  Flood();
  EXPECT_EQ(Held(keys), 3u);
  EXPECT_EQ(holds_->List("", "", 10).size(), 1u);
  clock_.Advance(std::chrono::seconds(2));
  EXPECT_TRUE(holds_->List("", "", 10).empty());
  Flood();
  EXPECT_EQ(Held(keys), 0u);
}

TEST_F(HoldTableTest, AHoldIsStrongerThanTheStoresOwnAgeLimit) {
  BlockStoreConfig config = TestConfig("", 64 * kBytes);
  config.ttl_s = 20;
  BlockStoreDeps deps;
  deps.clock = &clock_;
  holds_ = nullptr;
  store_ = OpenTestStore(config, deps);
  Reload();
  const auto held = Chain("held", 3), free = Chain("free", 3);
  ASSERT_TRUE(holds_->Hold(Record('a', "", 100), held, true).ok());
  clock_.Advance(std::chrono::seconds(50));
  EXPECT_EQ(Held(held), 3u);
  EXPECT_EQ(Held(free), 0u);
  ASSERT_TRUE(store_->Gc().ok());
  EXPECT_EQ(Held(held), 3u);
  clock_.Advance(std::chrono::seconds(51));
  holds_->Expire();
  EXPECT_EQ(Held(held), 0u);
}

TEST_F(HoldTableTest, PinnedStaysForYears) {
  const auto keys = Chain("held", 3);
  ASSERT_TRUE(holds_->Hold(Record('a', "", 0), keys, true).ok());
  clock_.Advance(std::chrono::hours(24 * 365 * 3));
  holds_->Expire();
  Flood();
  EXPECT_EQ(Held(keys), 3u);
}

TEST_F(HoldTableTest, AReplacedRecordHoldsWhatTheNewOneNames) {
  const auto keys = Chain("held", 5);
  ASSERT_TRUE(holds_->Hold(Record('a'), keys, true).ok());
  ASSERT_TRUE(holds_->Hold(Record('a'), std::span(keys).first(2), true).ok()) << "cropped";
  EXPECT_EQ(holds_->List("", "", 10).size(), 1u);
  EXPECT_EQ(holds_->tenants()[""].blocks, 2u);
  Flood();
  EXPECT_EQ(Held(keys), 2u);
}

TEST_F(HoldTableTest, QuotaCountsDistinctBlocksOfATenantAndItsSalts) {
  HoldLimits limits;
  limits.tenant_bytes = 6 * kBytes;
  Open(64, limits);
  const auto a = Chain("a", 4), b = Chain("b", 3);
  ASSERT_TRUE(holds_->Hold(Record('1', "alice"), a, true).ok());
  ASSERT_TRUE(holds_->Hold(Record('2', "alice"), a, true).ok()) << "the same blocks cost nothing more";
  EXPECT_EQ(holds_->Hold(Record('3', "alice/salt"), b, true).status().code(), StatusCode::kExhausted);
  EXPECT_TRUE(holds_->Hold(Record('3', "alice/salt"), std::span(b).first(2), true).ok());
  EXPECT_TRUE(holds_->Hold(Record('4', "bob"), b, true).ok()) << "another tenant's is another quota";
  EXPECT_EQ(holds_->tenants()["alice"].blocks, 6u);
  EXPECT_EQ(holds_->tenants()["alice"].records, 3u);
  EXPECT_EQ(holds_->tenants()["alice"].bytes, 6 * kBytes);
  holds_->Release(Record('1').id);
  EXPECT_EQ(holds_->tenants()["alice"].blocks, 6u) << "the second handle still names them";
  holds_->Release(Record('2').id);
  EXPECT_EQ(holds_->tenants()["alice"].blocks, 2u);
  EXPECT_TRUE(holds_->Hold(Record('1', "alice"), a, true).ok());
}

TEST_F(HoldTableTest, AChangeIsCountedAgainstWhatItGivesFree) {
  HoldLimits limits;
  limits.tenant_bytes = 5 * kBytes;
  Open(64, limits);
  const auto a = Chain("a", 5), b = Chain("b", 5);
  ASSERT_TRUE(holds_->Hold(Record('1', "t"), a, true).ok());
  EXPECT_TRUE(holds_->Hold(Record('1', "t"), b, true).ok()) << "all of a goes";
  EXPECT_EQ(holds_->tenants()["t"].blocks, 5u);
  ASSERT_TRUE(holds_->Hold(Record('2', "t"), b, true).ok());
  EXPECT_EQ(holds_->Hold(Record('1', "t"), a, true).status().code(), StatusCode::kExhausted) << "b stays for the other handle";
  Flood();
  EXPECT_EQ(Held(b), 5u) << "what was refused changed nothing";
}

TEST_F(HoldTableTest, WhatCanNeverBeHeldIsInvalid) {
  HoldLimits limits;
  limits.tenant_bytes = 3 * kBytes;
  Open(64, limits);
  const auto keys = Chain("held", 40);
  EXPECT_EQ(holds_->Hold(Record('a'), std::span(keys).first(4), true).status().code(), StatusCode::kInvalid) << "more than the quota";
  Open();
  Chain("held", 40);
  const auto status = holds_->Hold(Record('a'), keys, true).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalid) << "more than half of the store";
  EXPECT_NE(status.message().find("half"), std::string::npos);
  CacheRecord bad = Record('a');
  bad.id = "../../escape";
  EXPECT_EQ(holds_->Hold(bad, {}, true).status().code(), StatusCode::kInvalid);
  bad = Record('a', "", 5);
  clock_.Advance(std::chrono::seconds(5));
  EXPECT_EQ(holds_->Hold(bad, {}, true).status().code(), StatusCode::kInvalid) << "expired before it began";
  for (const double odd : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()}) {
    for (const bool created : {false, true}) {
      bad = Record('a');
      (created ? bad.created_unix_s : bad.expires_unix_s) = odd;
      const Status refused = holds_->Hold(bad, {}, true).status();
      EXPECT_EQ(refused.code(), StatusCode::kInvalid) << "neither kept for ever nor lost at the next start: " << odd;
      EXPECT_THAT(refused.message(), ::testing::HasSubstr(bad.id));
    }
  }
}

TEST_F(HoldTableTest, AStoreFullOfHoldsRefusesMoreAndKeepsWhatItHas) {
  const auto a = Chain("a", 20), b = Chain("b", 20);
  ASSERT_TRUE(holds_->Hold(Record('a'), a, true).ok());
  const auto refused = holds_->Hold(Record('b'), b, true);
  EXPECT_EQ(refused.status().code(), StatusCode::kExhausted) << "half of 64 blocks may be pinned";
  EXPECT_TRUE(holds_->Find("", Record('b').id).empty());
  EXPECT_EQ(store_->stats().pinned, 20u) << "the refused one pinned nothing";
  holds_->Release(Record('a').id);
  EXPECT_TRUE(holds_->Hold(Record('b'), b, true).ok());
}

TEST_F(HoldTableTest, BoundedInNumber) {
  HoldLimits limits;
  limits.max_records = 2;
  Open(64, limits);
  EXPECT_TRUE(holds_->Hold(Record('a'), {}, true).ok());
  EXPECT_TRUE(holds_->Hold(Record('b'), {}, true).ok());
  EXPECT_EQ(holds_->Hold(Record('c'), {}, true).status().code(), StatusCode::kExhausted);
  EXPECT_TRUE(holds_->Hold(Record('b'), {}, true).ok()) << "a change of one that is there";
}

TEST_F(HoldTableTest, ListsATenantsRecordsPageByPage) {
  for (const char digit : {'d', 'a', 'c', 'b', 'e'}) ASSERT_TRUE(holds_->Hold(Record(digit, digit == 'c' ? "bob" : "alice/x"), {}, true).ok());
  std::string order, after;
  for (int page = 0; page < 4; ++page) {
    const auto records = holds_->List("alice", after, 2);
    for (const CacheRecord& record : records) order += record.id.back();
    if (!records.empty()) after = records.back().id;
  }
  EXPECT_EQ(order, "abde");
  EXPECT_TRUE(holds_->Find("bob", Record('a').id).empty());
  EXPECT_EQ(holds_->Find("alice", Record('a').id).size(), 1u);
}

class HoldFilesTest : public HoldTableTest {
 protected:
  HoldFilesTest() {
    store_path_ = folder_.path();
    Open();
  }
  ~HoldFilesTest() override {
    holds_ = nullptr;
    store_ = nullptr;
  }
  std::string File(char digit) { return store_path_ + "/handles/" + Record(digit).id; }
  std::string Text(char digit) {
    std::ifstream in(File(digit), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void Write(char digit, const std::string& text) { std::ofstream(File(digit), std::ios::binary | std::ios::trunc) << text; }

  TempFolder folder_;
};

TEST_F(HoldFilesTest, RecordsAndPinsOutliveTheProcess) {
  const auto keys = Chain("held", 5);
  CacheRecord record = Record('a', "alice/salt", 1000);
  record.tokens.clear();
  for (TokenId t = 0; t < 40000; ++t) record.tokens.push_back(t);  // a file of several hundred kilobytes
  ASSERT_TRUE(store_->Flush().ok());
  ASSERT_TRUE(holds_->Hold(record, keys, true).ok());
  ASSERT_TRUE(holds_->Hold(Record('b', "alice", 5), keys, true).ok());
  clock_.Advance(std::chrono::seconds(10));
  Open();
  ASSERT_EQ(holds_->List("alice", "", 10).size(), 1u) << "one expired while the store was away";
  EXPECT_EQ(holds_->List("alice", "", 10)[0], record);
  EXPECT_FALSE(fs::exists(File('b')));
  EXPECT_EQ(store_->stats().pinned, 5u);
  EXPECT_EQ(holds_->tenants()["alice"].blocks, 5u);
  holds_->Release(record.id);
  EXPECT_FALSE(fs::exists(File('a')));
  EXPECT_EQ(store_->stats().pinned, 0u);
  Open();
  EXPECT_TRUE(holds_->List("alice", "", 10).empty());
}

TEST_F(HoldFilesTest, BlocksThatTheStoreLostAreNotPinnedButTheRecordStays) {
  const auto keys = Chain("held", 3);
  ASSERT_TRUE(store_->Flush().ok());
  ASSERT_TRUE(holds_->Hold(Record('a'), keys, true).ok());
  ASSERT_TRUE(store_->Remove(keys[2]).ok());
  Open();
  EXPECT_EQ(holds_->List("", "", 10).size(), 1u);
  EXPECT_EQ(store_->stats().pinned, 2u);
  Chain("held", 3);
  EXPECT_EQ(holds_->Hold(Record('a'), keys, true)->held, 3u) << "computed again, it is held again";
  EXPECT_EQ(store_->stats().pinned, 3u);
}

TEST_F(HoldFilesTest, EveryDamageOfARecordIsFound) {
  ASSERT_TRUE(holds_->Hold(Record('a'), Chain("held", 1), true).ok());
  const std::string good = Text('a');
  size_t kept = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    Write('a', bad);
    Reload();
    kept += holds_->List("", "", 10).size();
    EXPECT_FALSE(fs::exists(File('a'))) << "a damaged record is dropped";
  }
  EXPECT_EQ(kept, 0u);
  for (const size_t length : {size_t{0}, size_t{1}, size_t{17}, good.size() / 2, good.size() - 1}) {
    Write('a', good.substr(0, length));
    Reload();
    EXPECT_TRUE(holds_->List("", "", 10).empty()) << length;
  }
  Write('b', good);
  Reload();
  EXPECT_TRUE(holds_->List("", "", 10).empty()) << "a record under another's name";
  Write('a', good);
  Reload();
  EXPECT_EQ(holds_->List("", "", 10).size(), 1u);
}

TEST_F(HoldFilesTest, AHalfWrittenRecordIsCleanedAway) {
  std::ofstream(File('a') + ".new") << "half";
  std::ofstream(store_path_ + "/handles/README") << "somebody's";
  Reload();
  EXPECT_FALSE(fs::exists(File('a') + ".new"));
  EXPECT_TRUE(fs::exists(store_path_ + "/handles/README"));
}

TEST_F(HoldFilesTest, ARecordThatCannotBeWrittenIsNoHold) {
  const auto keys = Chain("held", 2);
  fs::remove_all(store_path_ + "/handles");
  EXPECT_FALSE(holds_->Hold(Record('a'), keys, true).ok());
  EXPECT_TRUE(holds_->List("", "", 10).empty());
  EXPECT_EQ(store_->stats().pinned, 0u);
  fs::create_directories(store_path_ + "/handles");
  EXPECT_TRUE(holds_->Hold(Record('a'), keys, true).ok());
}

TEST_F(HoldTableTest, RandomCallsKeepTheBooks) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    Open(64);
    Random random(seed);
    std::vector<std::vector<BlockKey>> chains;
    for (int i = 0; i < 4; ++i) chains.push_back(Chain("c" + std::to_string(i), 6));
    std::map<std::string, std::pair<CacheRecord, std::vector<BlockKey>>> model;
    for (int step = 0; step < 200; ++step) {
      const CacheRecord record = Record("0123456789abcdef"[random.Below(6)], random.Below(2) == 0 ? "x" : "y", 1.0 + double(random.Below(40)));
      if (random.Below(3) > 0) {
        const auto& chain = chains[random.Below(4)];
        const std::vector<BlockKey> keys(chain.begin(), chain.begin() + static_cast<ptrdiff_t>(random.Below(7)));
        if (holds_->Hold(record, keys, false).ok()) model[record.id] = {record, keys};
      } else if (random.Below(2) == 0) {
        holds_->Release(record.id);
        model.erase(record.id);
      } else {
        clock_.Advance(std::chrono::seconds(random.Below(5)));
      }
      std::erase_if(model, [this](const auto& entry) { return entry.second.first.Expired(clock_.UnixSeconds()); });
      std::set<BlockKey> distinct;
      for (const auto& [id, entry] : model) distinct.insert(entry.second.begin(), entry.second.end());
      holds_->Expire();
      uint64_t records = 0;
      for (const auto& [tenant, holds] : holds_->tenants()) records += holds.records;
      ASSERT_EQ(records, model.size()) << "seed " << seed << " step " << step;
      ASSERT_EQ(store_->stats().pinned, distinct.size()) << "seed " << seed << " step " << step;
    }
  }
}

}  // namespace
}  // namespace baton
