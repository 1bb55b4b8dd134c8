// Holds under many threads beside puts, reads and evictions, and holds of blocks that live on disk.
#include <thread>

#include "kvstore/hold_table.h"
#include "base/random.h"
#include "store_support.h"

namespace baton {
namespace {

constexpr size_t kBytes = 4096;

struct Held {
  explicit Held(const BlockStoreConfig& config, HoldLimits limits = {}) : store(OpenTestStore(config)) {
    limits.block_bytes = kBytes;
    if (!config.path.empty()) limits.folder = config.path + "/handles";
    holds = std::make_unique<HoldTable>(*store, clock, std::move(limits));
    EXPECT_TRUE(holds->Load().ok());
  }
  void Put(uint64_t name, size_t blocks) {
    for (const TestBlock& block : MakeTestChain(name, blocks, kBytes)) (void)store->Put(block.header, block.bytes);  // a full store may refuse
  }
  CacheRecord Record(uint64_t number, const std::string& tenant = "t", double ttl_s = 1000) const {
    return {fmt::format("cache_{:032x}", number), tenant, {1}, 0, clock.UnixSeconds() + ttl_s};
  }

  SystemClock clock;
  std::unique_ptr<BlockStore> store;
  std::unique_ptr<HoldTable> holds;
};

TEST(HoldRaces, HeldMeansThereUntilItIsReleased) {
  Held held(TestConfig("", 96 * kBytes));
  std::atomic<bool> stop{false};
  std::atomic<int> lost{0}, kept{0};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 60; ++i) {
        const uint64_t name = 1'000'000 * (t + 1) + 100 * i;
        held.Put(name, 4);
        const auto keys = KeysOf(MakeTestChain(name, 4, kBytes));
        const CacheRecord record = held.Record(name);
        const auto report = held.holds->Hold(record, keys, true);
        if (!report.ok() || report->held < 4) continue;  // the flood was faster
        ++kept;
        for (int look = 0; look < 5; ++look) lost += held.store->Lookup(keys) == 4 ? 0 : 1;
        for (const TestBlock& block : MakeTestChain(name, 4, kBytes)) lost += Holds(*held.store, block) ? 0 : 1;
        held.holds->Release(record.id);
      }
    });
  }
  std::thread flood([&] {
    for (uint64_t name = 500; !stop; name += 10) held.Put(name, 3);
  });
  std::thread books([&] {
    while (!stop) {
      held.holds->Expire();
      for (const auto& [tenant, holds] : held.holds->tenants()) lost += holds.bytes == holds.blocks * kBytes ? 0 : 1;
    }
  });
  for (std::thread& thread : threads) thread.join();
  stop = true;
  flood.join();
  books.join();
  EXPECT_EQ(lost, 0);
  EXPECT_GT(kept, 0);
  EXPECT_EQ(held.store->stats().pinned, 0u);
  EXPECT_TRUE(held.holds->tenants().empty());
}

TEST(HoldRaces, OneIdChangedByManyEndsAsOne) {
  Held held(TestConfig("", 96 * kBytes));
  held.Put(1, 20);
  const auto keys = KeysOf(MakeTestChain(1, 20, kBytes));
  std::vector<std::thread> threads;
  for (size_t t = 1; t <= 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) EXPECT_TRUE(held.holds->Hold(held.Record(7), std::span(keys).first(t * 5), true).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(held.holds->List("t", "", 10).size(), 1u);
  EXPECT_EQ(held.store->stats().pinned, held.holds->tenants()["t"].blocks);
  EXPECT_EQ(held.holds->tenants()["t"].blocks % 5, 0u);
}

TEST(HoldsOnDisk, StayWhenMemoryTurnsOver) {
  const TempFolder folder;
  Held held(TestConfig(folder.path(), 8 * kBytes, 4 << 20));
  held.Put(1, 6);
  const auto keys = KeysOf(MakeTestChain(1, 6, kBytes));
  ASSERT_TRUE(held.store->Flush().ok());
  ASSERT_EQ(held.holds->Hold(held.Record(1), keys, true)->held, 6u);
  for (uint64_t name = 100; name < 100 + 40 * 50; name += 50) held.Put(name, 20);  // several times the disk
  ASSERT_TRUE(held.store->Flush().ok());
  EXPECT_GT(held.store->stats().evictions, 0u);
  const HeldBlocks now = held.store->Describe(keys);
  EXPECT_EQ(now.held, 6u);
  EXPECT_EQ(now.disk, 6u);
  for (const TestBlock& block : MakeTestChain(1, 6, kBytes)) EXPECT_TRUE(Holds(*held.store, block));
  held.holds->Release(held.Record(1).id);
  for (uint64_t name = 100000; name < 100000 + 40 * 50; name += 50) held.Put(name, 20);
  ASSERT_TRUE(held.store->Flush().ok());
  EXPECT_EQ(held.store->Describe(keys).held, 0u);
}

TEST(HoldsOnDisk, MadeBeforeTheBlocksAreWritten) {
  const TempFolder folder;
  Held held(TestConfig(folder.path(), 16 * kBytes, 4 << 20));
  held.Put(1, 6);
  const auto keys = KeysOf(MakeTestChain(1, 6, kBytes));
  ASSERT_EQ(held.holds->Hold(held.Record(1), keys, true)->held, 6u) << "still on their way to disk, perhaps";
  for (uint64_t name = 100; name < 100 + 40 * 50; name += 50) held.Put(name, 20);
  ASSERT_TRUE(held.store->Flush().ok());
  EXPECT_EQ(held.store->Describe(keys).held, 6u);
}

TEST(HoldsOnDisk, ManyRestartsKeepTheBooks) {
  const TempFolder folder;
  std::map<uint64_t, size_t> model;
  Random random(11);
  for (int round = 0; round < 6; ++round) {
    Held held(TestConfig(folder.path(), 64 * kBytes, 16 << 20));
    held.Put(1, 10);
    const auto keys = KeysOf(MakeTestChain(1, 10, kBytes));
    ASSERT_TRUE(held.store->Flush().ok());
    ASSERT_EQ(held.holds->List("t", "", 100).size(), model.size()) << "round " << round;
    for (int i = 0; i < 8; ++i) {
      const uint64_t number = random.Below(6);
      if (random.Below(3) == 0) {
        held.holds->Release(held.Record(number).id);
        model.erase(number);
      } else {
        const size_t blocks = random.Below(11);
        ASSERT_TRUE(held.holds->Hold(held.Record(number), std::span(keys).first(blocks), true).ok());
        model[number] = blocks;
      }
    }
    size_t most = 0;
    for (const auto& [number, blocks] : model) most = std::max(most, blocks);
    EXPECT_EQ(held.store->stats().pinned, most) << "a chain's holds overlap";
  }
}

}  // namespace
}  // namespace baton
