// Time in the store: ages, pins and their deadlines, alone and together, over restarts; and the looks that must not change them.
#include <set>

#include "base/random.h"
#include "store_support.h"

namespace baton {
namespace {

using namespace std::chrono_literals;

constexpr size_t kBytes = 28000;  // seven pages, and one for the header

class StoreAges : public ::testing::TestWithParam<bool> {  // on disk, or in memory only
 protected:
  void Open(double ttl_s, uint64_t memory_blocks = 64, uint64_t disk_bytes = 4 << 20) {
    store_ = nullptr;
    BlockStoreConfig config = TestConfig(GetParam() ? folder_.path() : "", memory_blocks * kBytes, disk_bytes);
    config.ttl_s = ttl_s;
    store_ = OpenTestStore(config, {.clock = &clock_});
  }
  TestBlock Put(uint64_t name) {
    TestBlock block = MakeTestBlock(name, kBytes);
    EXPECT_TRUE(store_->Put(block.header, block.bytes, GetParam() ? Durability::kWritten : Durability::kMemory).ok());
    return block;
  }
  size_t Pin(const TestBlock& block, Duration how_long) { return Pin(block.header.key, how_long); }
  size_t Pin(const BlockKey& key, Duration how_long) {
    const auto pinned = store_->Pin(std::span(&key, 1), clock_.Now() + how_long);
    EXPECT_TRUE(pinned.ok()) << pinned.status().ToString();
    return pinned.ok() ? *pinned : 0;
  }
  bool There(const TestBlock& block) { return There(block.header.key); }
  bool There(const BlockKey& key) { return store_->Lookup(std::span(&key, 1)) == 1; }
  /// That each way of asking says the same.
  void ExpectThere(const TestBlock& block, bool there) {
    EXPECT_EQ(store_->Describe(std::span(&block.header.key, 1)).held, there ? 1u : 0u);
    EXPECT_EQ(There(block), there);
    const std::vector<BlockKey> keys = store_->Keys();
    EXPECT_EQ(std::count(keys.begin(), keys.end(), block.header.key), there ? 1 : 0);
    EXPECT_EQ(store_->Peek(block.header.key).ok(), there);
    EXPECT_EQ(store_->View(block.header.key).ok(), there);
    EXPECT_EQ(static_cast<bool>(Holds(*store_, block)), there);
  }

  TempFolder folder_;
  FakeClock clock_;
  std::unique_ptr<BlockStore> store_;
};

INSTANTIATE_TEST_SUITE_P(Tiers, StoreAges, ::testing::Bool(), [](const auto& info) { return info.param ? "disk" : "memory"; });

using StoreAgesOnDisk = StoreAges;  // nothing outlives a store in memory
INSTANTIATE_TEST_SUITE_P(Disk, StoreAgesOnDisk, ::testing::Values(true));

TEST_P(StoreAges, AnAgeIsOfThePutWhateverIsReadMeanwhile) {
  Open(100);
  const TestBlock block = Put(1);
  for (int i = 0; i < 9; ++i) {
    clock_.Advance(11s);
    EXPECT_TRUE(Holds(*store_, block)) << "a read is no put";
  }
  clock_.Advance(2s);
  ExpectThere(block, false);
  EXPECT_EQ(store_->stats().expired, 1u) << "counted once, however it was asked for";
  EXPECT_TRUE(store_->EvictedAt(block.header.key).has_value()) << "`store explain` can say that it was here";
}

/// Nothing else happens in the store when a pin's time is over: the next look finds the block as old as it is.
TEST_P(StoreAges, AnOldBlockGoesWithItsPinsDeadlineAndNotWithTheNextPut) {
  for (const bool unpinned : {false, true}) {
    Open(10);
    const TestBlock block = Put(unpinned ? 2 : 1);
    ASSERT_EQ(Pin(block, 50s), 1u);
    clock_.Advance(20s);
    ExpectThere(block, true);
    if (unpinned) store_->Unpin(std::span(&block.header.key, 1));
    if (!unpinned) clock_.Advance(31s);
    ExpectThere(block, false);
    EXPECT_EQ(store_->stats().pinned, 0u);
    const TestBlock again = Put(unpinned ? 2 : 1);
    ExpectThere(again, true);
  }
}

TEST_P(StoreAges, OldAndPinnedAreListedAndSweptByThePinToo) {
  Open(10);
  const TestBlock kept = Put(1), over = Put(2), plain = Put(3);
  Pin(kept, 1h);
  Pin(over, 15s);
  clock_.Advance(16s);
  const auto rows = store_->List();
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].key, kept.header.key);
  const auto report = store_->Gc();
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->expired, 2u);
  ExpectThere(kept, true);
}

TEST_P(StoreAges, TheLaterDeadlineOfTwoPinsCounts) {
  Open(10);
  const TestBlock block = Put(1);
  Pin(block, 60s);
  Pin(block, 20s);
  EXPECT_EQ(store_->stats().pinned, 1u);
  clock_.Advance(40s);
  ExpectThere(block, true);
  clock_.Advance(21s);
  ExpectThere(block, false);
}

TEST_P(StoreAges, APinInThePastIsNone) {
  Open(10);
  const TestBlock block = Put(1);
  Pin(block, -5s);
  ExpectThere(block, true);
  clock_.Advance(11s);
  ExpectThere(block, false);
}

TEST_P(StoreAges, WhatIsNotThereCannotBePinned) {
  Open(10);
  const TestBlock here = Put(1), old = Put(2), never = MakeTestBlock(3, kBytes);
  store_->Unpin(std::span(&never.header.key, 1));
  clock_.Advance(6s);
  const TestBlock young = Put(4);
  clock_.Advance(5s);
  const BlockKey keys[] = {here.header.key, never.header.key, young.header.key, old.header.key};
  const auto pinned = store_->Pin(keys, clock_.Now() + 1h);
  ASSERT_TRUE(pinned.ok());
  EXPECT_EQ(*pinned, 1u) << "only the young one; the others are gone or never were";
  clock_.Advance(30min);
  EXPECT_TRUE(There(young));
}

TEST_P(StoreAges, PinsHoldAgainstAFloodAndNoLonger) {
  Open(0, 16, 256 << 10);
  const TestBlock pinned = Put(1), free = Put(2);
  ASSERT_EQ(Pin(pinned, 100s), 1u);
  for (uint64_t name = 100; name < 140; ++name) Put(name);
  EXPECT_FALSE(There(free));
  EXPECT_TRUE(Holds(*store_, pinned));
  clock_.Advance(100s);
  for (uint64_t name = 200; name < 240; ++name) Put(name);
  EXPECT_FALSE(There(pinned)) << "at its deadline it is like the others, and older";
  EXPECT_EQ(store_->stats().pinned, 0u);
}

/// A pin is of a process: whoever needs it longer (a cache handle) says it again after a restart. Ages are of the folder.
TEST_P(StoreAgesOnDisk, ARestartKeepsAgesAndForgetsPins) {
  Open(100);
  const TestBlock a = Put(1);
  Pin(a, 1h);
  clock_.Advance(50s);
  const TestBlock b = Put(2);
  Open(100);
  EXPECT_EQ(store_->stats().pinned, 0u);
  ExpectThere(a, true);
  clock_.Advance(51s);
  ExpectThere(a, false);
  ExpectThere(b, true);
  Open(20);  // the operator lowers it
  ExpectThere(b, false);
  Open(0);  // and the same block may come again, for ever
  const TestBlock again = Put(1);
  clock_.Advance(24h * 365);
  ExpectThere(again, true);
}

TEST_P(StoreAges, HalfATierMayBePinnedAndTheBytesComeBack) {
  Open(0, 16, 2 << 20);
  const uint64_t most = store_->max_pinned_bytes() / kBytes;
  std::vector<TestBlock> pinned;
  for (uint64_t name = 1; name <= most; ++name) {
    pinned.push_back(Put(name));
    ASSERT_EQ(Pin(pinned.back(), 10s), 1u) << name << " of " << most;
  }
  const TestBlock over = Put(999);
  EXPECT_EQ(store_->Pin(std::span(&over.header.key, 1), clock_.Now() + 10s).status().code(), StatusCode::kExhausted);
  EXPECT_EQ(Pin(pinned[0], 30s), 1u) << "longer is not more";
  ASSERT_TRUE(store_->Remove(pinned[1].header.key).ok()) << "pinned or not";
  EXPECT_EQ(Pin(over, 10s), 1u) << "its bytes are free";
  clock_.Advance(11s);
  EXPECT_TRUE(There(over));
  const TestBlock next = Put(1000);
  for (uint64_t name = 2000; name < 2000 + most - 1; ++name) ASSERT_EQ(Pin(Put(name), 10s), 1u) << "all but one pin are over";
  EXPECT_EQ(store_->Pin(std::span(&next.header.key, 1), clock_.Now() + 10s).status().code(), StatusCode::kExhausted);
}

/// Ages, pins, puts, removals and restarts in any order against a model that only compares times.
TEST_P(StoreAges, RandomTimesAgreeWithAModel) {
  constexpr double kTtl = 30;
  struct Known {
    double stored, pinned_until = -1;
  };
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    Random random(seed);
    Open(kTtl);
    for (const BlockKey& key : store_->Keys()) ASSERT_TRUE(store_->Remove(key).ok());
    std::map<uint64_t, Known> known;
    const auto now = [&] { return clock_.UnixSeconds(); };
    const auto alive = [&](uint64_t name) {
      const auto it = known.find(name);
      if (it == known.end()) return false;
      if (now() < it->second.stored + kTtl || now() < it->second.pinned_until) return true;
      known.erase(it);
      return false;
    };
    for (int step = 0; step < 300; ++step) {
      const uint64_t name = 1 + random.Below(8);
      switch (random.Below(GetParam() ? 7 : 6)) {
        case 0:
        case 1:
          if (const bool before = alive(name); Put(name), !before) known[name] = {now()};
          break;
        case 2: {
          const auto seconds = static_cast<int64_t>(random.Below(60));
          const bool there = alive(name);
          ASSERT_EQ(Pin(TestKey(name), std::chrono::seconds(seconds)), there ? 1u : 0u) << "seed " << seed << ", step " << step;
          if (there) known[name].pinned_until = std::max(known[name].pinned_until, now() + static_cast<double>(seconds));
          break;
        }
        case 3: {
          const BlockKey key = TestKey(name);
          store_->Unpin(std::span(&key, 1));
          if (alive(name)) known[name].pinned_until = -1;
          break;
        }
        case 4: {
          const bool there = alive(name), removed = store_->Remove(TestKey(name)).ok();
          ASSERT_TRUE(removed || !there) << "seed " << seed << ", step " << step;
          known.erase(name);
          break;
        }
        case 5: clock_.Advance(std::chrono::seconds(1 + random.Below(20))); break;
        case 6:
          if (random.Below(4) > 0) break;
          Open(kTtl);
          for (auto& [other, k] : known) k.pinned_until = -1;
          break;
      }
      for (uint64_t other = 1; other <= 8; ++other) ASSERT_EQ(There(TestKey(other)), alive(other)) << "seed " << seed << ", step " << step << ", block " << other;
    }
  }
}

}  // namespace
}  // namespace baton
