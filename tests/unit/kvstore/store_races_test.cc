// Readers whose block is freed and its place given to another while they read, and disks that fail at random.
#include <thread>

#include "base/random.h"
#include "tests/unit/kvstore/store_support.h"

namespace baton {
namespace {

constexpr size_t kBytes = 6000;

/// A folder where nothing waits for a medium, as far as the system has one.
std::string FastFolder(const TempFolder& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory("/dev/shm", error)) return folder.path();
  return "/dev/shm/" + std::filesystem::path(folder.path()).parent_path().filename().string();
}

// The place of a block is freed and written again between the reader's header and its payload: 10,000 times, each time the
// reader gets a miss or the block that is right for its key, never the other's bytes.
TEST(StoreRaces, ABlockReassignedUnderItsReaderIsNeverDelivered) {
  constexpr uint64_t kRaces = 10'000;
  TempFolder folder;
  const std::string path = FastFolder(folder);
  FaultyFiles files;
  files.free_syncs = true;
  {
    BlockStoreConfig config = TestConfig(path, 0, 128 << 10);  // nothing in memory, a dozen blocks on disk
    config.sync_interval_s = 3600;
    auto store = OpenTestStore(config, {.files = &files});
    std::vector<std::byte> room(kBytes);
    uint64_t reassigned = 0, missed = 0;
    for (uint64_t i = 1; i <= kRaces; ++i) {
      const TestBlock victim = MakeTestBlock(2 * i, kBytes), next = MakeTestBlock(2 * i + 1, kBytes);
      ASSERT_TRUE(store->Put(victim.header, victim.bytes).ok());
      files.during_read = [&] {
        ASSERT_TRUE(store->Remove(victim.header.key).ok());
        for (uint64_t fill = 0; fill < 8; ++fill) {  // until one lands where the victim was
          TestBlock other = next;
          other.header.key = TestKey(1'000'000 + 8 * i + fill);
          ASSERT_TRUE(store->Put(other.header, other.bytes).ok());
        }
        ++reassigned;
      };
      const Status read = store->ReadInto(victim.header.key, room, nullptr);
      if (read.ok()) {
        ASSERT_EQ(room, victim.bytes) << "bytes of another block were delivered, race " << i;
      } else {
        ASSERT_EQ(read.code(), StatusCode::kNotFound);
        ++missed;
      }
    }
    EXPECT_EQ(reassigned, kRaces);
    EXPECT_GT(missed, kRaces / 2) << "the places were not given away: this proved nothing";
    EXPECT_EQ(store->stats().corrupt, 0u) << "a block that went is not a damaged one";
  }
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

// The same without choreography: readers and writers on a store that holds a fraction of what is asked for.
TEST(StoreRaces, ReadersOfAStoreThatTurnsOverConstantly) {
  TempFolder folder;
  const std::string path = FastFolder(folder);
  FaultyFiles files;
  files.free_syncs = true;
  {
    auto store = OpenTestStore(TestConfig(path, 2 * kBytes, 128 << 10), {.files = &files});
    std::vector<TestBlock> blocks;
    for (uint64_t i = 1; i <= 40; ++i) blocks.push_back(MakeTestBlock(i, kBytes));
    std::atomic<bool> stop{false};
    std::atomic<uint64_t> wrong{0}, right{0};
    std::vector<std::thread> readers;
    for (uint64_t t = 0; t < 3; ++t) {
      readers.emplace_back([&, t] {
        Random random(t);
        std::vector<std::byte> room(kBytes);
        while (!stop) {
          const TestBlock& block = blocks[random.Below(blocks.size())];
          if (!store->ReadInto(block.header.key, room, nullptr).ok()) continue;
          ++right;
          if (room != block.bytes) ++wrong;
        }
      });
    }
    Random random(99);
    for (int i = 0; i < 10'000; ++i) {
      const TestBlock& block = blocks[random.Below(blocks.size())];
      ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
    }
    stop = true;
    for (std::thread& reader : readers) reader.join();
    EXPECT_EQ(wrong, 0u);
    EXPECT_GT(right, 0u);
    EXPECT_EQ(store->stats().corrupt, 0u);
    EXPECT_GT(store->stats().evictions, 1000u);
  }
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

// Full, failing, torn and unsyncable by turns: each read is right or a miss, each call returns, and after the faults the store
// works as before, also from a new start.
TEST(StoreFaultStorm, NeverLiesNorStopsServing) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    TempFolder folder;
    FaultyFiles files;
    BlockStoreConfig config = TestConfig(folder.path(), 8 * kBytes, 2 << 20);
    config.wait_s = 20;
    auto store = OpenTestStore(config, {.files = &files});
    Random random(seed);
    std::vector<std::byte> room(kBytes);
    for (int step = 0; step < 800; ++step) {
      std::atomic<int64_t>* const faults[] = {&files.writes_until_full, &files.writes_until_error, &files.writes_until_torn, &files.syncs_until_error,
                                              &files.reads_until_error};
      if (random.Below(10) == 0) *faults[random.Below(5)] = static_cast<int64_t>(random.Below(4));
      if (random.Below(6) == 0) {
        for (auto* fault : faults) *fault = -1;
      }
      const TestBlock block = MakeTestBlock(1 + random.Below(120), kBytes);
      switch (random.Below(5)) {
        case 0:
        case 1: {
          const Status put = store->Put(block.header, block.bytes, static_cast<Durability>(random.Below(3)));
          ASSERT_TRUE(put.ok() || put.code() == StatusCode::kExhausted || put.code() == StatusCode::kUnavailable) << put.ToString();
          break;
        }
        case 2:
          (void)store->Flush();
          break;
        default: {
          const Status read = store->ReadInto(block.header.key, room, nullptr);
          ASSERT_TRUE(read.ok() ? room == block.bytes : read.code() == StatusCode::kNotFound) << "seed " << seed << " step " << step << ": " << read.ToString();
        }
      }
      ASSERT_LE(store->stats().bytes_disk, config.disk_bytes);
    }
    for (auto* fault : {&files.writes_until_full, &files.writes_until_error, &files.writes_until_torn, &files.syncs_until_error, &files.reads_until_error}) {
      *fault = -1;
    }
    (void)store->Flush();  // may tell of the last fault
    ASSERT_TRUE(store->Flush().ok());
    EXPECT_EQ(store->stats().blocks_dirty, 0u);
    const TestBlock after = MakeTestBlock(5000 + seed, kBytes);
    ASSERT_TRUE(store->Put(after.header, after.bytes, Durability::kSynced).ok());
    store.reset();
    store = OpenTestStore(config);
    EXPECT_TRUE(Holds(*store, after));
    for (const BlockKey& key : store->Keys()) {
      const auto read = store->Read(key);
      EXPECT_TRUE(!read.ok() || Xxh3(read->bytes) == read->header.digest);
    }
  }
}

TEST(StoreFaultStorm, AnIndexThatLosesItsFilesWhileItRunsIsRebuiltAtTheNextStart) {
  TempFolder folder;
  const auto blocks = MakeTestChain(1, 50, kBytes);
  {
    auto store = OpenTestStore(TestConfig(folder.path()));
    for (const TestBlock& block : blocks) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
    ASSERT_TRUE(store->Gc().ok());  // compacts: the rows are in SST files
    size_t removed = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path() + "/index")) {
      if (entry.path().extension() == ".sst") removed += std::filesystem::remove(entry.path());
    }
    ASSERT_GT(removed, 0u);
    for (const TestBlock& block : blocks) EXPECT_TRUE(Holds(*store, block));  // nothing is read from there while it runs
    const TestBlock more = MakeTestBlock(900, kBytes);
    EXPECT_TRUE(store->Put(more.header, more.bytes, Durability::kSynced).ok());
  }
  auto store = OpenTestStore(TestConfig(folder.path()));
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(store->Lookup(KeysOf(blocks)), blocks.size());
  for (const TestBlock& block : blocks) EXPECT_TRUE(Holds(*store, block));
}

// Rows that were published together with a sync that failed are taken back, and their places are not used before the index has
// durably forgotten them.
TEST(StoreFaultStorm, AFailedSyncLeavesNothingBehind) {
  TempFolder folder;
  FaultyFiles files;
  const auto lost = MakeTestChain(1, 20, kBytes), kept = MakeTestChain(100, 20, kBytes);
  {
    BlockStoreConfig config = TestConfig(folder.path());
    config.sync_interval_s = 3600;
    auto store = OpenTestStore(config, {.files = &files});
    for (const TestBlock& block : lost) {
      files.syncs_until_error = 0;
      ASSERT_EQ(store->Put(block.header, block.bytes, Durability::kSynced).code(), StatusCode::kUnavailable);
      files.syncs_until_error = -1;
      ASSERT_TRUE(store->Remove(block.header.key).ok());
    }
    for (const TestBlock& block : kept) ASSERT_TRUE(store->Put(block.header, block.bytes, Durability::kSynced).ok());
    std::filesystem::copy(folder.path(), folder.path("crash"), std::filesystem::copy_options::recursive);
  }
  for (const std::string name : {"store", "crash"}) {
    auto store = OpenTestStore(TestConfig(folder.path(name)));
    EXPECT_EQ(store->Lookup(KeysOf(kept)), kept.size()) << name;
    EXPECT_EQ(store->Keys().size(), kept.size()) << name;
    EXPECT_EQ(store->stats().corrupt, 0u) << name;
  }
}

}  // namespace
}  // namespace baton
