// What the store does when memory, files or the disk fail it: every damaged block is a miss, never an error, never served.
#include <csignal>
#include <cstring>
#include <sys/wait.h>
#include <unistd.h>

#include "base/random.h"
#include "kvstore/block_record.h"
#include "tests/unit/kvstore/store_support.h"

namespace baton {
namespace {

constexpr size_t kBytes = 20000;

std::vector<TestBlock> FillFolder(const std::string& path, size_t n, const std::string& codec = "none") {
  BlockStoreConfig config = TestConfig(path);
  config.compression = codec;
  auto store = OpenTestStore(config);
  std::vector<TestBlock> blocks;
  for (size_t i = 1; i <= n; ++i) {
    TestBlock block = MakeTestBlock(i, kBytes);
    if (codec != "none") {
      for (size_t b = 0; b < block.bytes.size(); ++b) block.bytes[b] &= std::byte{0x0f};
      block.header.digest = Xxh3(block.bytes);
    }
    EXPECT_TRUE(store->Put(block.header, block.bytes).ok());
    blocks.push_back(std::move(block));
  }
  EXPECT_TRUE(store->Flush().ok());
  return blocks;
}

/// Reads all: each is either exactly right or a miss. Gives the misses.
size_t CountMisses(BlockStore& store, const std::vector<TestBlock>& blocks) {
  size_t misses = 0;
  for (const TestBlock& block : blocks) {
    const auto read = store.Read(block.header.key);
    if (read.ok()) {
      EXPECT_TRUE(read->bytes == block.bytes && read->header == block.header) << "wrong bytes served";
    } else {
      EXPECT_EQ(read.status().code(), StatusCode::kNotFound);
      EXPECT_EQ(store.Lookup(std::span(&block.header.key, 1)), 0u) << "a block that does not verify stayed listed";
      ++misses;
    }
  }
  return misses;
}

class Corruption : public ::testing::TestWithParam<std::string> {};

TEST_P(Corruption, EveryFlippedByteIsAMiss) {
  TempFolder folder;
  const auto blocks = FillFolder(folder.path(), 300, GetParam());
  const std::string file = ExtentFiles(folder.path()).at(0);
  // Every record begins at a page whose first bytes are the magic: flip one byte somewhere in what the record uses.
  const std::string content = ReadFile(file);
  Random random(5);
  size_t flipped = 0;
  for (size_t at = 0; at + kPageBytes <= content.size(); at += kPageBytes) {
    const auto header = DecodeRecordHeader(AsBytes(std::string_view(content).substr(at)));
    if (!header) continue;
    const uint64_t in_header = kRecordFixedBytes + 4 * 16 + header->block.extra.size();
    const uint64_t offset = random.Below(3) == 0 ? random.Below(in_header) : kPageBytes + random.Below(header->stored_bytes);
    FlipByte(file, at + offset);
    ++flipped;
  }
  ASSERT_EQ(flipped, blocks.size());
  auto store = OpenTestStore(TestConfig(folder.path()));
  EXPECT_EQ(CountMisses(*store, blocks), blocks.size());
  EXPECT_EQ(store->stats().corrupt, blocks.size());
  EXPECT_EQ(store->stats().blocks_disk, 0u);
  for (const TestBlock& block : blocks) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());  // and can be stored anew
  ASSERT_TRUE(store->Flush().ok());
  EXPECT_EQ(CountMisses(*store, blocks), 0u);
}
INSTANTIATE_TEST_SUITE_P(Codecs, Corruption, ::testing::Values("none", "zstd", "lz4", "planes"));

TEST(StoreFaults, ZeroedSectorsSwappedRecordsAndTruncation) {
  TempFolder folder;
  const auto blocks = FillFolder(folder.path(), 100);
  const std::string file = ExtentFiles(folder.path()).at(0);
  const uint64_t record = 6 * kPageBytes;  // one header page and five of payload
  ASSERT_GE(FileSize(file), 99 * record);
  const std::string content = ReadFile(file);
  for (size_t i = 0; i < 20; ++i) OverwriteFile(file, i * record + kPageBytes + 512 * (i % 39), std::string(512, '\0'));
  for (size_t i = 20; i < 40; i += 2) {  // two valid records change places
    OverwriteFile(file, i * record, content.substr((i + 1) * record, record));
    OverwriteFile(file, (i + 1) * record, content.substr(i * record, record));
  }
  std::filesystem::resize_file(file, 90 * record + 7);
  auto store = OpenTestStore(TestConfig(folder.path()));
  EXPECT_EQ(CountMisses(*store, blocks), 20u + 20u + 10u);
  EXPECT_EQ(store->stats().corrupt, 50u);
}

TEST(StoreFaults, AScrubFindsWhatIsBadAndOnlyThat) {
  TempFolder folder;
  const auto blocks = FillFolder(folder.path(), 50);
  const std::string file = ExtentFiles(folder.path()).at(0);
  for (size_t i = 0; i < 7; ++i) FlipByte(file, (i * 5) * 6 * kPageBytes + kPageBytes + 99);
  auto store = OpenTestStore(TestConfig(folder.path()));
  const auto report = store->Scrub(0, {});
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->checked, 50u);
  EXPECT_EQ(report->corrupt, 7u);
  EXPECT_EQ(report->corrupt_keys.size(), 7u);
  EXPECT_EQ(store->Keys().size(), 43u);
  EXPECT_EQ(store->Scrub(0, {})->corrupt, 0u);
  EXPECT_EQ(store->Scrub(0, [] { return true; })->checked, 1u);
  int asked = 0;
  EXPECT_LT(store->Scrub(1, [&] { return ++asked > 3; })->checked, 43u);  // a rate so low that it must be stopped
}

TEST(StoreFaults, AMissingExtentFileIsManyMisses) {
  TempFolder folder;
  const auto blocks = FillFolder(folder.path(), 10);
  std::filesystem::remove(ExtentFiles(folder.path()).at(0));
  auto store = OpenTestStore(TestConfig(folder.path()));
  EXPECT_EQ(CountMisses(*store, blocks), 10u);
  ASSERT_TRUE(store->Put(blocks[0].header, blocks[0].bytes, Durability::kSynced).ok());
  EXPECT_TRUE(Holds(*store, blocks[0]));
}

TEST(StoreFaults, ALostOrDamagedIndexIsRebuiltFromTheBlocks) {
  for (int kind = 0; kind < 4; ++kind) {
    TempFolder folder;
    const auto blocks = FillFolder(folder.path(), 60);
    const std::string index = folder.path() + "/index";
    for (const auto& entry : std::filesystem::directory_iterator(index)) {
      const std::string name = entry.path().filename().string();
      if (kind == 0) break;
      if (kind == 1 && name == "CURRENT") std::filesystem::remove(entry.path());
      if (kind == 2 && name.rfind("MANIFEST", 0) == 0) OverwriteFile(entry.path().string(), 0, std::string(200, 'x'));
      if (kind == 3 && (name.ends_with(".sst") || name.ends_with(".log"))) std::filesystem::remove(entry.path());
    }
    if (kind == 0) std::filesystem::remove_all(index);
    FlipByte(ExtentFiles(folder.path()).at(0), 3 * 6 * kPageBytes + kPageBytes);
    auto store = OpenTestStore(TestConfig(folder.path()));
    ASSERT_NE(store, nullptr) << kind;
    if (kind == 3 && store->Keys().empty()) continue;  // nothing but the log held the rows: an empty store, which is no lie
    EXPECT_EQ(CountMisses(*store, blocks), 1u) << kind;
  }
}

TEST(StoreFaults, BytesDamagedInMemoryAreNotServed) {
  TempFolder folder;
  for (const std::string& path : {std::string(), folder.path()}) {
    auto store = OpenTestStore(TestConfig(path));
    const TestBlock block = MakeTestBlock(1, kBytes);
    ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
    ASSERT_TRUE(store->Flush().ok());
    const auto view = store->View(block.header.key);
    ASSERT_TRUE(view.ok());
    const_cast<std::byte*>(view->bytes.data())[123] ^= std::byte{4};
    const auto read = store->Read(block.header.key);
    EXPECT_EQ(read.ok(), !path.empty());  // from disk, where there is one
    if (read.ok()) {
      EXPECT_EQ(read->bytes, block.bytes);
    }
    EXPECT_EQ(store->stats().corrupt, 1u);
  }
}

TEST(StoreFaults, TornWritesAreMisses) {
  TempFolder folder;
  FaultyFiles files;
  const auto blocks = MakeTestChain(1, 40, kBytes);
  {
    auto store = OpenTestStore(TestConfig(folder.path()), {.files = &files});
    for (const TestBlock& block : blocks) {
      if (block.header.depth % 4 == 3) files.writes_until_torn = 0;
      ASSERT_TRUE(store->Put(block.header, block.bytes, Durability::kWritten).ok());
    }
  }
  auto store = OpenTestStore(TestConfig(folder.path()));
  EXPECT_EQ(CountMisses(*store, blocks), 10u);
}

TEST(StoreFaults, AFullDiskRefusesDurabilityAndGoesOnServing) {
  TempFolder folder;
  FaultyFiles files;
  auto store = OpenTestStore(TestConfig(folder.path()), {.files = &files});
  const auto before = MakeTestChain(1, 5, kBytes), during = MakeTestChain(100, 5, kBytes);
  for (const TestBlock& block : before) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
  ASSERT_TRUE(store->Flush().ok());
  files.writes_until_full = 0;
  for (const TestBlock& block : during) EXPECT_TRUE(store->Put(block.header, block.bytes).ok());  // memory has room
  const Status full = store->Flush();
  EXPECT_EQ(full.code(), StatusCode::kExhausted) << full.ToString();
  const TestBlock last = MakeTestBlock(500, kBytes);
  EXPECT_EQ(store->Put(last.header, last.bytes, Durability::kWritten).code(), StatusCode::kExhausted);
  EXPECT_EQ(store->stats().dropped, 6u);
  EXPECT_EQ(store->stats().blocks_dirty, 0u);
  for (const TestBlock& block : before) EXPECT_TRUE(Holds(*store, block));
  for (const TestBlock& block : during) EXPECT_TRUE(Holds(*store, block));
  files.writes_until_full = -1;  // room again: what is put again is written
  for (const TestBlock& block : during) EXPECT_TRUE(store->Put(block.header, block.bytes).ok());
  EXPECT_EQ(store->Flush().code(), StatusCode::kExhausted);  // the one that failed after the last Flush
  EXPECT_TRUE(store->Flush().ok());
  EXPECT_EQ(store->stats().blocks_disk, 10u);
}

TEST(StoreFaults, AFailedSyncIsNotCalledDurable) {
  TempFolder folder;
  FaultyFiles files;
  auto store = OpenTestStore(TestConfig(folder.path()), {.files = &files});
  const TestBlock a = MakeTestBlock(1, kBytes), b = MakeTestBlock(2, kBytes);
  files.syncs_until_error = 0;
  EXPECT_EQ(store->Put(a.header, a.bytes, Durability::kSynced).code(), StatusCode::kUnavailable);
  EXPECT_TRUE(Holds(*store, a));  // from memory
  files.syncs_until_error = -1;
  ASSERT_TRUE(store->Put(b.header, b.bytes, Durability::kSynced).ok());
  ASSERT_TRUE(store->Put(a.header, a.bytes, Durability::kSynced).ok());
}

TEST(StoreFaults, ReadErrorsAreMisses) {
  TempFolder folder;
  const auto blocks = FillFolder(folder.path(), 10);
  FaultyFiles files;
  auto store = OpenTestStore(TestConfig(folder.path(), 0), {.files = &files});
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Holds(*store, blocks[i]));
  files.reads_until_error = 0;
  EXPECT_EQ(CountMisses(*store, blocks), 10u);
}

TEST(StoreFaults, WhatAPowerLossTookIsNotListedAfterwards) {
  TempFolder folder;
  FaultyFiles files;
  BlockStoreConfig config = TestConfig(folder.path());
  config.sync_interval_s = 3600;
  const auto synced = MakeTestChain(1, 5, kBytes), lost = MakeTestChain(100, 5, kBytes);
  {
    auto store = OpenTestStore(config, {.files = &files});
    for (const TestBlock& block : synced) ASSERT_TRUE(store->Put(block.header, block.bytes).ok());
    ASSERT_TRUE(store->Flush().ok());
    files.drop_unsynced = true;
    for (const TestBlock& block : lost) ASSERT_TRUE(store->Put(block.header, block.bytes, Durability::kWritten).ok());
    // What the machine would find after the loss: the rows in the log, the pages not. A copy, for the store still runs.
    std::filesystem::copy(folder.path(), folder.path("after"), std::filesystem::copy_options::recursive);
    files.drop_unsynced = false;
  }
  auto store = OpenTestStore(TestConfig(folder.path("after")));
  EXPECT_EQ(store->Lookup(KeysOf(synced)), 5u);
  EXPECT_EQ(store->Lookup(KeysOf(lost)), 0u);  // found at start, before anybody could be told it is there
  EXPECT_EQ(store->stats().corrupt, 5u);
}

TEST(StoreFaults, WhatIsFreedIsNotOverwrittenBeforeTheIndexForgotIt) {
  // At every instant the folder, as a crash would leave it, lists only what verifies: copies taken while blocks replace others.
  TempFolder folder;
  auto store = OpenTestStore(TestConfig(folder.path(), 1 << 20, 3 << 20));
  for (uint64_t round = 0; round < 6; ++round) {
    for (uint64_t i = 0; i < 40; ++i) {
      const TestBlock block = MakeTestBlock(1 + round * 1000 + i, kBytes);
      ASSERT_TRUE(store->Put(block.header, block.bytes, i % 2 ? Durability::kWritten : Durability::kMemory).ok());
    }
    ASSERT_TRUE(store->Flush().ok());
    const std::string copy = folder.path("copy" + std::to_string(round));
    std::filesystem::copy(folder.path(), copy, std::filesystem::copy_options::recursive);
    auto after = OpenTestStore(TestConfig(copy, 1 << 20, 3 << 20));
    const auto report = after->Scrub(0, {});
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->corrupt, 0u);
    EXPECT_GE(report->checked, 40u);
  }
}

// A child puts and flushes and tells through a pipe what was acknowledged; it is killed at a random instant; every block
// acknowledged as written or synced is there, and nothing wrong is.
void RunChild(const std::string& path, int to_parent, uint64_t seed) {
  // A small quota makes it evict too; the parent knows that only the newest are certain.
  auto store = OpenBlockStore(TestConfig(path, 1 << 20, 64 << 20));
  if (!store.ok()) _exit(3);
  Random random(seed);
  for (uint64_t i = 0;; ++i) {
    const uint64_t name = seed * 1'000'000 + i;
    const TestBlock block = MakeTestBlock(name, kBytes);
    const auto durability = static_cast<Durability>(random.Below(3));
    if (!(*store)->Put(block.header, block.bytes, durability).ok()) _exit(4);
    if (durability != Durability::kMemory && write(to_parent, &name, sizeof name) != sizeof name) _exit(5);
    if (random.Below(20) == 0 && !(*store)->Flush().ok()) _exit(6);
  }
}

TEST(StoreFaults, WhatWasAcknowledgedSurvivesKill9) {
  const char* rounds_text = std::getenv("BATON_KILL_ROUNDS");  // the nightly run asks for 500
  const int rounds = rounds_text != nullptr ? std::atoi(rounds_text) : 20;
  TempFolder folder;
  std::vector<uint64_t> acknowledged;
  Random random(11);
  for (int round = 1; round <= rounds; ++round) {
    int pipe_fds[2];
    ASSERT_EQ(pipe(pipe_fds), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(pipe_fds[0]);
      RunChild(folder.path(), pipe_fds[1], static_cast<uint64_t>(round));
      _exit(7);
    }
    close(pipe_fds[1]);
    const uint64_t wanted = 1 + random.Below(60);  // the instant: after so many acknowledgements and a few microseconds
    std::vector<uint64_t> mine;
    uint64_t name = 0;
    while (mine.size() < wanted && read(pipe_fds[0], &name, sizeof name) == sizeof name) mine.push_back(name);
    usleep(static_cast<useconds_t>(random.Below(3000)));
    kill(child, SIGKILL);
    while (read(pipe_fds[0], &name, sizeof name) == sizeof name) mine.push_back(name);  // told before it died
    close(pipe_fds[0]);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child failed by itself: " << WEXITSTATUS(status);
    acknowledged = mine;
    auto store = OpenTestStore(TestConfig(folder.path(), 1 << 20, 64 << 20));
    ASSERT_NE(store, nullptr);
    for (const uint64_t id : acknowledged) {
      ASSERT_TRUE(Holds(*store, MakeTestBlock(id, kBytes))) << "round " << round << ": an acknowledged block is lost";
    }
    const auto report = store->Scrub(0, {});
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->corrupt, 0u);  // nothing is listed that does not verify
    EXPECT_EQ(store->stats().corrupt, 0u);
  }
}

}  // namespace
}  // namespace baton
