// Long random runs: one thread against a naive model, and many threads at once on one store.
#include <set>
#include <thread>

#include "base/random.h"
#include "kvstore/block_index.h"
#include "tests/unit/kvstore/store_support.h"

namespace baton {
namespace {

constexpr size_t kBytes = 9000;

/// A family of chains: block n of chain c, both small numbers.
TestBlock ChainBlock(uint64_t chain, uint32_t n) { return MakeTestBlock(1000 + chain * 100 + n, kBytes, n == 0 ? 0 : 1000 + chain * 100 + n - 1, n); }

class StoreModel : public ::testing::TestWithParam<std::string> {};

TEST_P(StoreModel, ARandomLifeWithRestartsNeverLies) {
  TempFolder folder;
  FakeClock clock;
  BlockStoreConfig config = TestConfig(folder.path(), 12 * kBytes, 2 << 20);
  config.policy = GetParam();
  auto store = OpenTestStore(config, {.clock = &clock});
  Random random(23);
  std::set<BlockKey> by_events;
  const auto follow = [&] {
    for (const BlockStoreEvent& event : store->DrainEvents()) {
      if (event.added) {
        EXPECT_TRUE(by_events.insert(event.key).second) << "added twice";
      } else {
        EXPECT_EQ(by_events.erase(event.key), 1u) << "gone, and never there";
      }
    }
    const auto keys = store->Keys();
    EXPECT_EQ(by_events, std::set<BlockKey>(keys.begin(), keys.end()));
  };
  std::map<BlockKey, TestBlock> ever;
  for (int step = 0; step < 3000; ++step) {
    const uint64_t chain = random.Below(20);
    const auto n = static_cast<uint32_t>(random.Below(10));
    const TestBlock block = ChainBlock(chain, n);
    const uint64_t what = random.Below(100);
    if (what < 45) {
      const auto durability = static_cast<Durability>(random.Below(20) == 0 ? random.Below(3) : 0);
      const Status put = store->Put(block.header, block.bytes, durability);
      ASSERT_TRUE(put.ok()) << put.ToString();
      ever.emplace(block.header.key, block);
      if (durability != Durability::kMemory) {
        EXPECT_TRUE(Holds(*store, block));
      }
    } else if (what < 80) {
      const auto read = store->Read(block.header.key);
      if (read.ok()) {
        ASSERT_TRUE(ever.contains(block.header.key));
        ASSERT_TRUE(read->bytes == block.bytes && read->header == block.header);
      } else {
        ASSERT_EQ(read.status().code(), StatusCode::kNotFound);
      }
    } else if (what < 90) {
      std::vector<BlockKey> keys;
      for (uint32_t i = 0; i < 10; ++i) keys.push_back(ChainBlock(chain, i).header.key);
      ASSERT_LE(store->Lookup(keys), 10u);
    } else if (what < 94) {
      const bool held = store->Lookup(std::span(&block.header.key, 1)) == 1;
      const Status removed = store->Remove(block.header.key);
      EXPECT_TRUE(removed.ok() || !held);
      EXPECT_FALSE(store->Read(block.header.key).ok());
    } else if (what < 97) {
      const std::vector<BlockKey> keys = {block.header.key, ChainBlock(chain, 0).header.key};
      ASSERT_TRUE(store->Pin(keys, clock.Now() + std::chrono::seconds(1 + random.Below(5))).ok());
      if (random.Below(2) == 0) store->Unpin(keys);
    } else if (what < 98) {
      clock.Advance(std::chrono::seconds(2));
    } else if (what < 99) {
      ASSERT_TRUE(store->Flush().ok());
      follow();
    } else {
      const auto before = store->Keys();
      ASSERT_TRUE(store->Flush().ok());
      store.reset();
      store = OpenTestStore(config, {.clock = &clock});
      const auto keys = store->Keys();
      by_events = {keys.begin(), keys.end()};
      EXPECT_LE(keys.size(), before.size());
    }
    const BlockStoreStats stats = store->stats();
    ASSERT_LE(stats.bytes_memory, config.memory_bytes);
    ASSERT_LE(stats.bytes_disk, config.disk_bytes);
    ASSERT_EQ(stats.corrupt, 0u);
  }
  follow();
  EXPECT_GT(store->stats().puts, 0u);
}
INSTANTIATE_TEST_SUITE_P(Policies, StoreModel, ::testing::Values("lru", "s3fifo", "cost"));

TEST(StoreThreads, ManyAtOnceOnASmallStore) {
  TempFolder folder;
  // Twice as much as the folder holds and far more than memory: eviction, promotion and reuse of space under every reader.
  BlockStoreConfig config = TestConfig(folder.path(), 6 * kBytes, 1 << 20);
  auto store = OpenTestStore(config);
  std::vector<std::vector<TestBlock>> chains;
  for (uint64_t c = 0; c < 20; ++c) {
    chains.emplace_back();
    for (uint32_t n = 0; n < 10; ++n) chains.back().push_back(ChainBlock(c, n));
  }
  std::atomic<uint64_t> wrong{0}, read{0}, writers{2};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      Random random(100 + t);
      std::vector<std::byte> room(kBytes);
      // Writers take their steps, the others go on as long as one of them does.
      for (int step = 0; t % 3 == 0 ? step < 1500 : writers > 0; ++step) {
        const auto& chain = chains[random.Below(chains.size())];
        const TestBlock& block = chain[random.Below(chain.size())];
        if (t % 3 == 0) {
          const Status put = store->Put(block.header, block.bytes, step % 50 == 0 ? Durability::kSynced : Durability::kMemory);
          EXPECT_TRUE(put.ok()) << put.ToString();
        } else if (t % 3 == 1) {
          BlockHeader header;
          if (store->ReadInto(block.header.key, room, &header).ok()) {
            ++read;
            if (room != block.bytes || !(header == block.header)) ++wrong;
          }
        } else if (random.Below(2) == 0) {
          const auto view = store->View(block.header.key);
          if (view.ok() && (!std::equal(view->bytes.begin(), view->bytes.end(), block.bytes.begin()) || !(view->header == block.header))) ++wrong;
        } else {
          (void)store->Lookup(KeysOf(chain));
          if (step % 100 == 0) (void)store->Remove(block.header.key);
        }
      }
      if (t % 3 == 0) --writers;
    });
  }
  std::thread scrubber([&] {
    while (!stop) {
      const auto report = store->Scrub(0, [&] { return stop.load(); });
      EXPECT_TRUE(report.ok() && report->corrupt == 0);
      (void)store->DrainEvents();
      (void)store->stats();
    }
  });
  for (std::thread& thread : threads) thread.join();
  stop = true;
  scrubber.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(read, 100u);
  EXPECT_EQ(store->stats().corrupt, 0u);
  EXPECT_TRUE(store->Flush().ok());
  EXPECT_GT(store->stats().evictions, 0u);
}

TEST(StoreThreads, OneKeyPutByManyIsStoredOnce) {
  TempFolder folder;
  for (const uint64_t memory : {uint64_t{0}, uint64_t{1 << 20}}) {
    auto store = OpenTestStore(TestConfig(folder.path("m" + std::to_string(memory)), memory));
    const TestBlock block = MakeTestBlock(1, kBytes);
    std::vector<std::thread> threads;
    std::atomic<int> ok{0};
    for (int t = 0; t < 8; ++t) threads.emplace_back([&] { ok += store->Put(block.header, block.bytes, Durability::kSynced).ok(); });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(ok, 8);
    EXPECT_EQ(store->stats().blocks_disk, 1u);
    EXPECT_EQ(store->stats().puts, 1u);
    EXPECT_EQ(store->stats().duplicates, 7u);
  }
}

TEST(BlockIndex, AgreesWithAMapAndFreesWhatNobodyNeeds) {
  BlockIndex index;
  Random random(31);
  std::map<BlockKey, uint32_t> held;
  for (int step = 0; step < 50000; ++step) {
    const auto n = static_cast<uint32_t>(random.Below(3000));
    BlockKey key = TestKey(n);
    key.bytes[0] = static_cast<std::byte>(n % 7);  // many share a slot
    key.bytes[1] = key.bytes[2] = key.bytes[3] = std::byte{0};
    const auto it = held.find(key);
    if (it == held.end()) {
      const uint32_t id = index.Intern(key);
      ASSERT_TRUE(index.Link(id, TestKey(1'000'000 + n / 10), 5));
      index[id].dirty = true;  // stands for being held
      held[key] = id;
    } else {
      ASSERT_EQ(index.Find(key), it->second);
      index[it->second].dirty = false;
      index.Release(it->second);
      ASSERT_EQ(index.Find(key), kNoBlock);
      held.erase(it);
    }
  }
  for (const auto& [key, id] : held) {
    ASSERT_EQ(index.Find(key), id);
    index[id].dirty = false;
    index.Release(id);
  }
  EXPECT_EQ(index.size(), 0u);  // parents went with their last child
}

TEST(BlockStore, StartsAtASecondForAHundredThousandBlocks) {
  TempFolder folder;
  constexpr uint64_t kBlocks = 20000;  // a fifth, held to a fifth of the time with room for a loaded machine
  {
    auto store = OpenTestStore(TestConfig(folder.path(), 64 << 20, 512 << 20));
    std::vector<std::byte> bytes(64);
    BlockHeader header;
    header.digest = Xxh3(bytes);
    for (uint64_t i = 0; i < kBlocks; ++i) {
      header.parent = i % 100 == 0 ? TestKey(0) : header.key;
      header.depth = static_cast<uint32_t>(i % 100);
      header.key = TestKey(i + 1);
      ASSERT_TRUE(store->Put(header, bytes).ok());
    }
    ASSERT_TRUE(store->Flush().ok());
  }
  const SystemClock clock;
  const Instant begin = clock.Now();
  auto store = OpenTestStore(TestConfig(folder.path(), 64 << 20, 512 << 20));
  const double seconds = ToSeconds(clock.Now() - begin);
  RecordProperty("seconds", std::to_string(seconds));
  EXPECT_EQ(store->stats().blocks_disk, kBlocks);
  EXPECT_LT(seconds, 2.0);
  std::printf("start-up: %.3f s for %llu blocks\n", seconds, static_cast<unsigned long long>(kBlocks));
}

}  // namespace
}  // namespace baton
