// What every store promises: reads, puts, tiers, eviction, restart, pins, TTL, quota, identity.
#include "kvstore/block_store.h"

#include <set>
#include <thread>

#include "base/random.h"
#include "tests/unit/kvstore/store_support.h"

namespace baton {
namespace {

constexpr size_t kBytes = 20000;

TEST(BlockStore, InMemoryGivesBackWhatItTook) {
  auto store = OpenTestStore(TestConfig(""));
  const auto chain = MakeTestChain(1, 5, kBytes);
  for (const TestBlock& block : chain) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  for (const TestBlock& block : chain) EXPECT_TRUE(Holds(*store, block));
  EXPECT_EQ(store->Lookup(KeysOf(chain)), 5u);
  EXPECT_EQ(store->Read(TestKey(99)).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(store->Flush().ok());
  EXPECT_EQ(store->Put(chain[0].header, chain[0].bytes, Durability::kWritten).code(), StatusCode::kInvalid);
  const BlockStoreStats stats = store->stats();
  EXPECT_EQ(stats.blocks_memory, 5u);
  EXPECT_EQ(stats.bytes_memory, 5 * kBytes);
  EXPECT_EQ(stats.hits_memory, 5u);
  EXPECT_EQ(stats.misses, 1u);
  EXPECT_EQ(stats.puts, 5u);
}

TEST(BlockStore, LookupStopsAtTheFirstGap) {
  auto store = OpenTestStore(TestConfig(""));
  const auto chain = MakeTestChain(1, 4, 100);
  for (size_t i : {0, 1, 3}) ASSERT_TRUE(store->Put(chain[i].header, chain[i].bytes).ok());
  EXPECT_EQ(store->Lookup(KeysOf(chain)), 2u);
  EXPECT_EQ(store->Lookup({}), 0u);
}

TEST(BlockStore, ReadIntoNeedsExactlyTheRoom) {
  TempFolder folder;
  for (const std::string& path : {std::string(), folder.path()}) {
    auto store = OpenTestStore(TestConfig(path));
    const TestBlock block = MakeTestBlock(1, kBytes);
    ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
    std::vector<std::byte> room(kBytes);
    BlockHeader header;
    ASSERT_TRUE(store->ReadInto(block.header.key, room, &header).ok());
    EXPECT_EQ(room, block.bytes);
    EXPECT_EQ(header, block.header);
    EXPECT_TRUE(store->ReadInto(block.header.key, room, nullptr).ok());
    room.resize(kBytes - 1);
    EXPECT_EQ(store->ReadInto(block.header.key, room, nullptr).code(), StatusCode::kInvalid);
  }
}

TEST(BlockStore, AViewOutlivesTheBlock) {
  auto store = OpenTestStore(TestConfig("", 3 * kBytes));
  const TestBlock block = MakeTestBlock(1, kBytes);
  ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  auto view = store->View(block.header.key);
  ASSERT_TRUE(view.ok());
  ASSERT_TRUE(store->Remove(block.header.key).ok());
  EXPECT_EQ(store->View(block.header.key).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(std::equal(view->bytes.begin(), view->bytes.end(), block.bytes.begin(), block.bytes.end()));
}

TEST(BlockStore, RefusesWhatDoesNotAddUp) {
  BlockStoreConfig config = TestConfig("", 1 << 20);
  config.block_bytes = kBytes;
  auto store = OpenTestStore(config);
  TestBlock block = MakeTestBlock(1, kBytes);
  block.bytes[7] ^= std::byte{1};
  EXPECT_EQ(store->Put(block.header, block.bytes).code(), StatusCode::kInvalid);
  const TestBlock small = MakeTestBlock(2, kBytes - 1);
  EXPECT_EQ(store->Put(small.header, small.bytes).code(), StatusCode::kInvalid);
  EXPECT_EQ(store->Put(small.header, {}).code(), StatusCode::kInvalid);
  TestBlock ids = MakeTestBlock(3, kBytes);
  ids.header.token_ids.resize(BlockHeader::kMaxTokenIds + 1);
  EXPECT_EQ(store->Put(ids.header, ids.bytes).code(), StatusCode::kInvalid);
  TestBlock extra = MakeTestBlock(4, kBytes);
  extra.header.extra.resize(BlockHeader::kMaxExtraBytes + 1);
  EXPECT_EQ(store->Put(extra.header, extra.bytes).code(), StatusCode::kInvalid);
  EXPECT_TRUE(store->Keys().empty());
  auto tiny = OpenTestStore(TestConfig("", 100));
  const TestBlock large = MakeTestBlock(5, 101);
  EXPECT_EQ(tiny->Put(large.header, large.bytes).code(), StatusCode::kExhausted);
}

TEST(BlockStore, AChainCannotContradictItselfOrCloseACircle) {
  auto store = OpenTestStore(TestConfig(""));
  TestBlock self = MakeTestBlock(1, 100);
  self.header.parent = self.header.key;
  EXPECT_EQ(store->Put(self.header, self.bytes).code(), StatusCode::kInvalid);
  const TestBlock a = MakeTestBlock(2, 100, 3, 5), b = MakeTestBlock(3, 100, 2, 6);  // each the other's parent
  EXPECT_TRUE(store->Put(a.header, a.bytes).ok());
  EXPECT_EQ(store->Put(b.header, b.bytes).code(), StatusCode::kInvalid);
  const TestBlock parent = MakeTestBlock(3, 100, 9, 4);
  EXPECT_TRUE(store->Put(parent.header, parent.bytes).ok());
}

TEST(BlockStore, MemoryEvictsTailsFirstAndTellsWhatWent) {
  auto store = OpenTestStore(TestConfig("", 10 * kBytes));
  const auto old_chain = MakeTestChain(100, 6, kBytes), new_chain = MakeTestChain(200, 8, kBytes);
  for (const TestBlock& block : old_chain) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  for (const TestBlock& block : new_chain) {
    ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
    EXPECT_LE(store->stats().bytes_memory, 10 * kBytes);
  }
  EXPECT_EQ(store->Lookup(KeysOf(old_chain)), 2u);  // its head is what is left of it
  EXPECT_EQ(store->Lookup(KeysOf(new_chain)), 8u);
  std::set<BlockKey> by_events;
  for (const BlockStoreEvent& event : store->DrainEvents()) {
    if (event.added) {
      by_events.insert(event.key);
    } else {
      by_events.erase(event.key);
    }
  }
  const auto keys = store->Keys();
  EXPECT_EQ(by_events, std::set<BlockKey>(keys.begin(), keys.end()));
  EXPECT_EQ(store->stats().evictions, 4u);
  EXPECT_TRUE(store->DrainEvents().empty());
}

TEST(BlockStore, ProbesKeepNothingAliveReadsDo) {
  auto store = OpenTestStore(TestConfig("", 3 * kBytes));
  const TestBlock a = MakeTestBlock(1, kBytes), b = MakeTestBlock(2, kBytes), c = MakeTestBlock(3, kBytes), d = MakeTestBlock(4, kBytes);
  for (const TestBlock* block : {&a, &b, &c}) ASSERT_TRUE(store->Put(block->header, block->bytes).ok());
  ASSERT_TRUE(store->View(b.header.key).ok());
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(store->Lookup(std::span(&a.header.key, 1)), 1u);
  ASSERT_TRUE(store->Put(d.header, d.bytes).ok());
  EXPECT_EQ(store->Lookup(std::span(&a.header.key, 1)), 0u);
  EXPECT_EQ(store->Lookup(std::span(&b.header.key, 1)), 1u);
}

TEST(BlockStore, ComesBackAfterARestart) {
  TempFolder folder;
  const auto chain = MakeTestChain(1, 30, kBytes);
  {
    auto store = OpenTestStore(TestConfig(folder.path()));
    for (const TestBlock& block : chain) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
    ASSERT_TRUE(store->Flush().ok());
    EXPECT_EQ(store->stats().blocks_disk, 30u);
    EXPECT_EQ(store->stats().blocks_dirty, 0u);
  }
  auto store = OpenTestStore(TestConfig(folder.path()));
  EXPECT_EQ(store->Lookup(KeysOf(chain)), 30u);
  EXPECT_EQ(store->stats().blocks_memory, 0u);
  EXPECT_EQ(store->Keys().size(), 30u);
  const auto first = store->Read(chain[0].header.key);
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(first->from_disk);
  for (const TestBlock& block : chain) EXPECT_TRUE(Holds(*store, block));
  EXPECT_FALSE(store->Read(chain[0].header.key)->from_disk);  // promoted
  EXPECT_EQ(store->stats().blocks_memory, 30u);
  EXPECT_EQ(store->stats().corrupt, 0u);
}

TEST(BlockStore, ADestroyedStoreHasWrittenWhatItTook) {
  TempFolder folder;
  const auto chain = MakeTestChain(1, 20, kBytes);
  {
    auto store = OpenTestStore(TestConfig(folder.path()));
    for (const TestBlock& block : chain) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  }
  EXPECT_EQ(OpenTestStore(TestConfig(folder.path()))->Lookup(KeysOf(chain)), 20u);
}

TEST(BlockStore, ABlockLargerThanTheMemoryTierGoesStraightToDisk) {
  TempFolder folder;
  for (const uint64_t memory : {uint64_t{0}, uint64_t{kBytes - 1}}) {
    auto store = OpenTestStore(TestConfig(folder.path(), memory));
    const TestBlock block = MakeTestBlock(memory + 1, kBytes);
    ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
    EXPECT_TRUE(Holds(*store, block));
    EXPECT_TRUE(store->Read(block.header.key)->from_disk);
    EXPECT_EQ(store->stats().bytes_memory, 0u);
  }
}

TEST(BlockStore, EveryDurabilityAndDuplicates) {
  TempFolder folder;
  auto store = OpenTestStore(TestConfig(folder.path()));
  uint64_t name = 0;
  for (const Durability durability : {Durability::kMemory, Durability::kWritten, Durability::kSynced}) {
    const TestBlock block = MakeTestBlock(++name, kBytes);
    ASSERT_TRUE(store->Put(block.header, block.bytes, durability).ok());
    if (durability != Durability::kMemory) {
      EXPECT_EQ(store->stats().blocks_disk, name);
    }
    EXPECT_TRUE(store->Put(block.header, block.bytes, durability).ok());
    EXPECT_TRUE(store->Put(block.header, block.bytes, Durability::kSynced).ok());
    EXPECT_EQ(store->stats().blocks_disk, name);
  }
  EXPECT_EQ(store->stats().puts, 3u);
  EXPECT_EQ(store->stats().duplicates, 6u);
}

TEST(BlockStore, TheDiskQuotaIsHardAlsoAfterARestart) {
  TempFolder folder;
  const uint64_t quota = 12 << 20;
  std::vector<std::vector<TestBlock>> chains;
  for (int i = 0; i < 40; ++i) chains.push_back(MakeTestChain(1000 * (i + 1), 20, kBytes));  // 16 MB in all
  {
    auto store = OpenTestStore(TestConfig(folder.path(), 1 << 20, quota));
    for (const auto& chain : chains) {
      for (const TestBlock& block : chain) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
      ASSERT_LE(store->stats().bytes_disk, quota);
    }
    ASSERT_TRUE(store->Flush().ok());
    EXPECT_GT(store->stats().evictions, 0u);
    EXPECT_EQ(store->Lookup(KeysOf(chains.back())), 20u);
    EXPECT_LE(FolderBytes(folder.path()), quota);
  }
  uint64_t held = 0;
  {
    auto store = OpenTestStore(TestConfig(folder.path(), 1 << 20, quota));
    held = store->stats().blocks_disk;
    EXPECT_GT(held, 300u);
    for (const auto& chain : chains) {  // the head of each chain is what is left of it
      const size_t n = store->Lookup(KeysOf(chain));
      for (size_t i = 0; i < chain.size(); ++i) EXPECT_EQ(store->Read(chain[i].header.key).ok(), i < n);
    }
    const TestBlock more = MakeTestBlock(7, kBytes);
    ASSERT_TRUE(store->Put(more.header, more.bytes, Durability::kSynced).ok());
  }
  const uint64_t less = 8 << 20;  // a smaller quota holds at once
  auto store = OpenTestStore(TestConfig(folder.path(), 1 << 20, less));
  EXPECT_LE(store->stats().bytes_disk, less);
  EXPECT_LE(FolderBytes(folder.path()), less);
  EXPECT_GT(store->stats().blocks_disk, 100u);
  for (const BlockKey& key : store->Keys()) EXPECT_TRUE(store->Read(key).ok());
}

TEST(BlockStore, AFolderOfAnotherIdentityIsRefused) {
  TempFolder folder;
  BlockStoreConfig config = TestConfig(folder.path());
  { OpenTestStore(config); }
  config.identity = "model=2 kv=test";
  const Status refused = OpenBlockStore(config).status();
  EXPECT_EQ(refused.code(), StatusCode::kInvalid);
  EXPECT_THAT(refused.message(), ::testing::AllOf(::testing::HasSubstr("model=1 kv=test"), ::testing::HasSubstr("model=2 kv=test"),
                                                  ::testing::HasSubstr("own folder"), ::testing::HasSubstr(folder.path())));
  config.identity.clear();
  EXPECT_EQ(OpenTestStore(config)->identity(), "model=1 kv=test");
}

TEST(BlockStore, AFolderThatIsLockedForeignOrMissingSaysSo) {
  TempFolder folder;
  auto store = OpenTestStore(TestConfig(folder.path()));
  const Status locked = OpenBlockStore(TestConfig(folder.path())).status();
  EXPECT_EQ(locked.code(), StatusCode::kUnavailable);
  EXPECT_THAT(locked.message(), ::testing::AllOf(::testing::HasSubstr("in use"), ::testing::HasSubstr("LOCK"), ::testing::HasSubstr(std::to_string(getpid()))));
  std::filesystem::create_directories(folder.path("foreign"));
  std::ofstream(folder.path("foreign") + "/letters.txt") << "dear";
  const Status foreign = OpenBlockStore(TestConfig(folder.path("foreign"))).status();
  EXPECT_EQ(foreign.code(), StatusCode::kInvalid);
  EXPECT_THAT(foreign.message(), ::testing::HasSubstr("letters.txt"));
  BlockStoreConfig absent = TestConfig(folder.path("absent"));
  absent.read_only = true;
  EXPECT_EQ(OpenBlockStore(absent).status().code(), StatusCode::kNotFound);
  std::ofstream(folder.path("file")) << "x";
  EXPECT_FALSE(OpenBlockStore(TestConfig(folder.path("file"))).ok());
  BlockStoreConfig none = TestConfig(folder.path("none"));
  none.disk_bytes = 0;
  EXPECT_EQ(OpenBlockStore(none).status().code(), StatusCode::kInvalid);
  for (auto change : {+[](BlockStoreConfig& c) { c.policy = "mru"; }, +[](BlockStoreConfig& c) { c.compression = "zip"; }}) {
    BlockStoreConfig wrong = TestConfig("");
    change(wrong);
    EXPECT_EQ(OpenBlockStore(wrong).status().code(), StatusCode::kInvalid);
  }
}

TEST(BlockStore, ALookFromOutsideWhileItIsServed) {
  TempFolder folder;
  auto store = OpenTestStore(TestConfig(folder.path()));
  const auto chain = MakeTestChain(1, 5, kBytes);
  for (const TestBlock& block : chain) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  ASSERT_TRUE(store->Flush().ok());
  BlockStoreConfig config = TestConfig(folder.path());
  config.read_only = true;
  config.identity.clear();
  auto look = OpenTestStore(config);
  EXPECT_EQ(look->Lookup(KeysOf(chain)), 5u);
  EXPECT_TRUE(Holds(*look, chain[4]));
  EXPECT_EQ(look->Put(chain[0].header, chain[0].bytes).code(), StatusCode::kInvalid);
  EXPECT_EQ(look->Remove(chain[0].header.key).code(), StatusCode::kInvalid);
  EXPECT_EQ(look->Gc().status().code(), StatusCode::kInvalid);
  EXPECT_TRUE(look->Flush().ok());
  const auto rows = look->List();
  ASSERT_EQ(rows.size(), 5u);
  for (const BlockListing& row : rows) {
    EXPECT_EQ(row.bytes, kBytes);
    EXPECT_GE(row.disk_bytes, kBytes);
    EXPECT_EQ(row.tokens, 16u);
  }
}

TEST(BlockStore, BlocksAgeOut) {
  TempFolder folder;
  FakeClock clock;
  BlockStoreConfig config = TestConfig(folder.path());
  config.ttl_s = 10;
  const TestBlock a = MakeTestBlock(1, kBytes), b = MakeTestBlock(2, kBytes), c = MakeTestBlock(3, kBytes);
  {
    auto store = OpenTestStore(config, {.clock = &clock});
    ASSERT_TRUE(store->Put(a.header, a.bytes, Durability::kSynced).ok());
    clock.Advance(std::chrono::seconds(6));
    ASSERT_TRUE(store->Put(b.header, b.bytes, Durability::kSynced).ok());
    EXPECT_TRUE(Holds(*store, a));
    clock.Advance(std::chrono::seconds(6));
    EXPECT_EQ(store->Lookup(std::span(&a.header.key, 1)), 0u);
    EXPECT_EQ(store->Read(a.header.key).status().code(), StatusCode::kNotFound);
    EXPECT_TRUE(Holds(*store, b));
    EXPECT_EQ(store->stats().expired, 1u);
    EXPECT_EQ(store->Keys().size(), 1u);
    ASSERT_TRUE(store->Put(a.header, a.bytes, Durability::kSynced).ok());  // new again
    EXPECT_TRUE(Holds(*store, a));
  }
  clock.Advance(std::chrono::seconds(6));
  auto store = OpenTestStore(config, {.clock = &clock});
  EXPECT_TRUE(Holds(*store, a));
  ASSERT_TRUE(store->Put(c.header, c.bytes, Durability::kSynced).ok());
  const auto report = store->Gc();
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->expired, 1u);  // b
  EXPECT_EQ(store->Keys().size(), 2u);
}

TEST(BlockStore, APinHoldsUntilItsDeadline) {
  TempFolder folder;
  FakeClock clock;
  for (const std::string& path : {std::string(), folder.path()}) {
    auto store = OpenTestStore(TestConfig(path, 10 * kBytes, 10 << 20), {.clock = &clock});
    const auto chain = MakeTestChain(100, 3, kBytes);
    for (const TestBlock& block : chain) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
    auto keys = KeysOf(chain);
    keys.push_back(TestKey(9));
    const auto pinned = store->Pin(keys, clock.Now() + std::chrono::seconds(10));
    ASSERT_TRUE(pinned.ok()) << pinned.status().ToString();
    EXPECT_EQ(*pinned, 3u);
    EXPECT_EQ(store->stats().pinned, 3u);
    const auto flood = [&](uint64_t from) {
      for (uint64_t i = 0; i < 800; ++i) {
        const TestBlock block = MakeTestBlock(from + i, kBytes);
        ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
      }
      ASSERT_TRUE(store->Flush().ok());
    };
    flood(10000);
    for (const TestBlock& block : chain) EXPECT_TRUE(Holds(*store, block));
    clock.Advance(std::chrono::seconds(11));
    flood(20000);
    EXPECT_EQ(store->Lookup(KeysOf(chain)), 0u);
    EXPECT_EQ(store->stats().pinned, 0u);
  }
}

TEST(BlockStore, PinsAreBoundedAndCanBeTakenBack) {
  FakeClock clock;
  auto store = OpenTestStore(TestConfig("", 10 * kBytes), {.clock = &clock});
  std::vector<BlockKey> keys;
  for (uint64_t i = 1; i <= 8; ++i) {
    const TestBlock block = MakeTestBlock(i, kBytes);
    ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
    keys.push_back(block.header.key);
  }
  EXPECT_EQ(store->Pin(keys, clock.Now() + std::chrono::hours(1)).status().code(), StatusCode::kExhausted);
  EXPECT_EQ(store->stats().pinned, 5u);
  EXPECT_TRUE(store->Pin(std::span(keys).first(5), clock.Now() + std::chrono::hours(2)).ok());  // again is no more
  store->Unpin(keys);
  EXPECT_EQ(store->stats().pinned, 0u);
  EXPECT_TRUE(store->Pin(std::span(keys).last(5), clock.Now() + std::chrono::hours(1)).ok());
  ASSERT_TRUE(store->Remove(keys.back()).ok());  // pinned or not
  EXPECT_EQ(store->stats().pinned, 4u);
}

TEST(BlockStore, RemovedIsGoneForGood) {
  TempFolder folder;
  const auto chain = MakeTestChain(1, 3, kBytes);
  {
    auto store = OpenTestStore(TestConfig(folder.path()));
    for (const TestBlock& block : chain) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
    ASSERT_TRUE(store->Remove(chain[2].header.key).ok());  // perhaps not written yet
    ASSERT_TRUE(store->Flush().ok());
    ASSERT_TRUE(store->Remove(chain[1].header.key).ok());
    EXPECT_EQ(store->Remove(chain[1].header.key).code(), StatusCode::kNotFound);
    EXPECT_EQ(store->Lookup(KeysOf(chain)), 1u);
  }
  std::filesystem::remove_all(folder.path() + "/index");  // even a rebuilt index does not find it
  auto store = OpenTestStore(TestConfig(folder.path()));
  EXPECT_EQ(store->Keys(), std::vector<BlockKey>{chain[0].header.key});
}

TEST(BlockStore, GcGivesSpaceBack) {
  TempFolder folder;
  auto store = OpenTestStore(TestConfig(folder.path()));
  const auto chain = MakeTestChain(1, 100, kBytes);
  for (const TestBlock& block : chain) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  ASSERT_TRUE(store->Flush().ok());
  const uint64_t before = FolderBytes(folder.path());
  for (size_t i = 10; i < 100; ++i) ASSERT_TRUE(store->Remove(chain[i].header.key).ok());
  const auto report = store->Gc();
  ASSERT_TRUE(report.ok()) << report.status().ToString();
  EXPECT_GE(report->freed_bytes, 80 * kBytes);
  EXPECT_LT(FolderBytes(folder.path()) + 80 * kBytes, before);
  for (size_t i = 0; i < 10; ++i) EXPECT_TRUE(Holds(*store, chain[i]));
}

TEST(BlockStore, CompressionIsInvisible) {
  TempFolder folder;
  uint64_t plain = 0;
  for (const std::string codec : {"none", "zstd", "lz4"}) {
    BlockStoreConfig config = TestConfig(folder.path(codec));
    config.compression = codec;
    TestBlock soft = MakeTestBlock(1, 200000), hard = MakeTestBlock(2, 200000);
    for (size_t i = 0; i < soft.bytes.size(); ++i) soft.bytes[i] = static_cast<std::byte>(i / 1000);
    soft.header.digest = Xxh3(soft.bytes);
    {
      auto store = OpenTestStore(config);
      ASSERT_TRUE(store->Put(soft.header, soft.bytes).ok());
      ASSERT_TRUE(store->Put(hard.header, hard.bytes).ok());
    }
    config.compression = "none";  // a folder may hold blocks of several codecs
    auto store = OpenTestStore(config);
    EXPECT_TRUE(Holds(*store, soft));
    EXPECT_TRUE(Holds(*store, hard));
    if (codec == "none") plain = store->stats().bytes_disk;
    if (codec != "none") {
      EXPECT_LT(store->stats().bytes_disk, plain - 150000);
    }
  }
}

}  // namespace
}  // namespace baton
