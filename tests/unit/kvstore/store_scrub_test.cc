// The scrubber: damage is found before it is asked for, moved aside, and never served again.
#include "kvstore/block_record.h"
#include "tests/unit/kvstore/store_support.h"

namespace baton {
namespace {

constexpr size_t kBytes = 20000;
constexpr uint64_t kRecord = 6 * kPageBytes;

std::vector<TestBlock> Fill(const std::string& path, size_t n) {
  auto store = OpenTestStore(TestConfig(path));
  std::vector<TestBlock> blocks;
  for (size_t i = 1; i <= n; ++i) {
    blocks.push_back(MakeTestBlock(i, kBytes));
    EXPECT_TRUE(store->Put(blocks.back().header, blocks.back().bytes).ok());
  }
  return blocks;
}

size_t Copies(const std::string& path) {
  std::error_code error;
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path + "/quarantine", error), std::filesystem::directory_iterator()));
}

/// Polls the store until it is so; the test's own time limit ends it otherwise.
template <typename Condition>
void Until(const Condition& condition) {
  while (!condition()) std::this_thread::yield();
}

TEST(Scrubber, FindsDamageByItselfAndMovesItAside) {
  TempFolder folder;
  const auto blocks = Fill(folder.path(), 40);
  const std::string file = ExtentFiles(folder.path()).at(0);
  const std::string before = ReadFile(file).substr(3 * kRecord, kRecord);
  for (const size_t i : {3, 17, 30}) FlipByte(file, i * kRecord + kPageBytes + 99);
  BlockStoreConfig config = TestConfig(folder.path());
  config.scrub_bytes_per_s = 1 << 30;
  config.scrub_pause_s = 0;
  auto store = OpenTestStore(config);
  Until([&] { return store->stats().scrubbed >= 40 + 37; });  // two passes
  const BlockStoreStats stats = store->stats();
  EXPECT_EQ(stats.corrupt, 3u);
  EXPECT_EQ(stats.quarantined, 3u);
  EXPECT_EQ(stats.misses, 0u) << "nobody had to ask for them";
  EXPECT_EQ(stats.blocks_disk, 37u);
  ASSERT_TRUE(store->Put(blocks[3].header, blocks[3].bytes, Durability::kSynced).ok());  // the copy aside is written by then
  EXPECT_TRUE(Holds(*store, blocks[3]));
  EXPECT_EQ(Copies(folder.path()), 3u);
  for (const auto& entry : std::filesystem::directory_iterator(folder.path() + "/quarantine")) {
    EXPECT_EQ(std::filesystem::file_size(entry.path()), kRecord);
    if (entry.path().filename().string().find(blocks[3].header.key.ToHex()) == std::string::npos) continue;
    const std::string copy = ReadFile(entry.path().string());
    EXPECT_NE(copy, before) << "the damage is what is kept";
    EXPECT_EQ(copy.substr(0, kPageBytes), before.substr(0, kPageBytes));
  }
}

TEST(Scrubber, StopsAtOnceWhateverItsRate) {
  TempFolder folder;
  Fill(folder.path(), 40);
  BlockStoreConfig config = TestConfig(folder.path());
  config.scrub_bytes_per_s = 1;  // a block in five hours
  auto store = OpenTestStore(config);
  Until([&] { return store->stats().scrubbed >= 1; });
  EXPECT_LT(store->stats().scrubbed, 3u);
  store.reset();  // returns
}

TEST(Scrubber, KeepsToItsRate) {
  TempFolder folder;
  Fill(folder.path(), 30);
  auto store = OpenTestStore(TestConfig(folder.path()));
  const SystemClock clock;
  const Instant begin = clock.Now();
  const auto report = store->Scrub(2'000'000, {});
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->checked, 30u);
  EXPECT_GE(ToSeconds(clock.Now() - begin), 30.0 * kBytes / 2e6 * 0.99);  // never faster; how much slower is the machine's affair
}

TEST(Scrubber, SleepsInMemoryAndReadOnlyStores) {
  BlockStoreConfig config = TestConfig("");
  config.scrub_bytes_per_s = 1 << 30;
  auto store = OpenTestStore(config);
  const TestBlock block = MakeTestBlock(1, kBytes);
  ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  EXPECT_EQ(store->Scrub(0, {})->checked, 0u);
  TempFolder folder;
  Fill(folder.path(), 3);
  config = TestConfig(folder.path());
  config.scrub_bytes_per_s = 1 << 30;
  config.read_only = true;
  store = OpenTestStore(config);
  EXPECT_TRUE(Holds(*store, block));
  EXPECT_EQ(store->stats().scrubbed, 0u);
}

TEST(Quarantine, ItsPlaceIsNotWrittenAgainWhileThereIsOther) {
  TempFolder folder;
  const auto blocks = Fill(folder.path(), 10);
  const std::string file = ExtentFiles(folder.path()).at(0);
  FlipByte(file, 4 * kRecord + kPageBytes + 5);
  const std::string damaged = ReadFile(file).substr(4 * kRecord, kRecord);
  auto store = OpenTestStore(TestConfig(folder.path(), 0));
  EXPECT_FALSE(store->Read(blocks[4].header.key).ok());
  for (uint64_t i = 100; i < 130; ++i) {
    const TestBlock block = MakeTestBlock(i, kBytes);
    ASSERT_TRUE(store->Put(block.header, block.bytes, Durability::kSynced).ok());
  }
  EXPECT_EQ(ReadFile(file).substr(4 * kRecord, kRecord), damaged);
  store.reset();
  store = OpenTestStore(TestConfig(folder.path(), 0));  // a new start gives the place another chance
  EXPECT_EQ(store->Lookup(std::span(&blocks[4].header.key, 1)), 0u);
  const TestBlock block = MakeTestBlock(200, kBytes);
  ASSERT_TRUE(store->Put(block.header, block.bytes, Durability::kSynced).ok());
  EXPECT_NE(ReadFile(file).substr(4 * kRecord, kRecord), damaged);
  EXPECT_TRUE(Holds(*store, block));
}

TEST(Quarantine, IsBounded) {
  TempFolder folder;
  const auto blocks = Fill(folder.path(), 200);
  const std::string file = ExtentFiles(folder.path()).at(0);
  for (size_t i = 0; i < 200; ++i) FlipByte(file, i * kRecord + kPageBytes + 5);
  BlockStoreConfig config = TestConfig(folder.path(), 0, 6 << 20);  // about 250 blocks; a sixteenth of them may be spared
  auto store = OpenTestStore(config);
  for (const TestBlock& block : blocks) EXPECT_FALSE(store->Read(block.header.key).ok());
  EXPECT_EQ(store->stats().quarantined, 200u);
  for (const TestBlock& block : blocks) ASSERT_TRUE(store->Put(block.header, block.bytes, Durability::kWritten).ok());
  EXPECT_EQ(store->Lookup(std::span(&blocks[199].header.key, 1)), 1u);
  EXPECT_GT(store->Keys().size(), 190u) << "room was lost for good";
  EXPECT_LE(Copies(folder.path()), 64u);
}

}  // namespace
}  // namespace baton
