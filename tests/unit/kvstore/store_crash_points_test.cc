// The process dies at every write that the store makes, with the write undone, half done or done. At the next start everything that
// was acknowledged is there, what was removed is not, nothing that is listed is damaged, and the store goes on within its quota.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <set>

#include "base/random.h"
#include "store_support.h"

namespace baton {
namespace {

constexpr size_t kBytes = 20000;

enum class Death { kBefore, kHalfWay, kAfter };

/// Files whose n-th write is the last thing that the process does.
class DyingFiles final : public FileLayer {
 public:
  DyingFiles(int64_t write, Death how) : left_(write), how_(how) {}
  Result<std::unique_ptr<File>> Open(const std::string& path, bool read_only) override {
    ASSIGN_OR_RETURN(std::unique_ptr<File> real, real_->Open(path, read_only));
    return std::unique_ptr<File>(std::make_unique<DyingFile>(std::move(real), *this));
  }

 private:
  class DyingFile final : public File {
   public:
    DyingFile(std::unique_ptr<File> real, DyingFiles& layer) : real_(std::move(real)), layer_(layer) {}
    Status ReadAt(uint64_t offset, std::span<const MutableBytes> parts) override { return real_->ReadAt(offset, parts); }
    Status WriteAt(uint64_t offset, std::span<const Bytes> parts) override {
      if (--layer_.left_ != 0) return real_->WriteAt(offset, parts);
      if (layer_.how_ == Death::kAfter) (void)real_->WriteAt(offset, parts);
      if (layer_.how_ == Death::kHalfWay) {
        const std::vector<Bytes> first(parts.begin(), parts.end() - 1);
        if (first.empty()) {
          const Bytes half = parts[0].first(parts[0].size() / 2);
          (void)real_->WriteAt(offset, std::span(&half, 1));
        } else {
          (void)real_->WriteAt(offset, first);  // the header without its payload
        }
      }
      kill(getpid(), SIGKILL);
      for (;;) pause();
    }
    Status Sync() override { return real_->Sync(); }
    Status PunchHole(uint64_t offset, uint64_t bytes) override { return real_->PunchHole(offset, bytes); }
    Status Truncate(uint64_t bytes) override { return real_->Truncate(bytes); }
    Result<uint64_t> Size() override { return real_->Size(); }

   private:
    const std::unique_ptr<File> real_;
    DyingFiles& layer_;
  };

  const std::unique_ptr<FileLayer> real_ = MakeSystemFiles();
  std::atomic<int64_t> left_;
  const Death how_;
};

/// A step of the child's life: a put of a name, or a removal.
struct Step {
  uint64_t name = 0;
  bool removes = false;
  Durability durability = Durability::kWritten;
};

/// Puts and removals; every name comes once, and may be removed after that.
std::vector<Step> LifeOf(uint64_t seed, size_t steps) {
  Random random(seed);
  std::vector<Step> out;
  std::vector<uint64_t> there;
  for (uint64_t name = 1; out.size() < steps;) {
    if (!there.empty() && random.Below(4) == 0) {
      const size_t which = random.Below(there.size());
      out.push_back({there[which], true});
      there.erase(there.begin() + static_cast<ptrdiff_t>(which));
    } else {
      there.push_back(name);
      out.push_back({name++, false, random.Below(3) == 0 ? Durability::kSynced : Durability::kWritten});
    }
  }
  return out;
}

struct Fate {
  size_t acknowledged = 0;  // steps
  bool killed = false;
};

/// Lives in a process of its own until its n-th write. What it acknowledged comes through a pipe before the next step.
Fate Live(const BlockStoreConfig& config, const std::vector<Step>& steps, int64_t write, Death how) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    DyingFiles files(write, how);
    auto store = OpenBlockStore(config, {.files = &files});
    if (!store.ok()) _exit(3);
    for (const Step& step : steps) {
      const TestBlock block = MakeTestBlock(step.name, kBytes);
      const Status done = step.removes ? (*store)->Remove(block.header.key) : (*store)->Put(block.header, block.bytes, step.durability);
      if (!done.ok()) {
        std::fprintf(stderr, "step %llu: %s\n", static_cast<unsigned long long>(step.name), done.ToString().c_str());
        _exit(4);
      }
      if (::write(ends[1], "x", 1) != 1) _exit(5);
    }
    _exit(0);  // without an orderly end, too
  }
  close(ends[1]);
  Fate fate;
  char byte;
  while (read(ends[0], &byte, 1) == 1) ++fate.acknowledged;
  close(ends[0]);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  fate.killed = WIFSIGNALED(status);
  EXPECT_TRUE(fate.killed || WEXITSTATUS(status) == 0) << "the child failed by itself: " << WEXITSTATUS(status);
  return fate;
}

class CrashPoints : public ::testing::TestWithParam<Death> {};
INSTANTIATE_TEST_SUITE_P(Deaths, CrashPoints, ::testing::Values(Death::kBefore, Death::kHalfWay, Death::kAfter), [](const auto& info) {
  return info.param == Death::kBefore ? "before" : info.param == Death::kHalfWay ? "half_way" : "after";
});

TEST_P(CrashPoints, WhatWasAcknowledgedIsThereAndNothingElseIsBroken) {
  const std::vector<Step> steps = LifeOf(5, 9);
  bool killed = true;
  int64_t write = 1;
  for (; killed && write < 40; ++write) {
    TempFolder folder;
    const BlockStoreConfig config = TestConfig(folder.path(), 1 << 20, 16 << 20);
    const Fate fate = Live(config, steps, write, GetParam());
    killed = fate.killed;
    ASSERT_TRUE(killed || fate.acknowledged == steps.size());
    auto store = OpenTestStore(config);
    ASSERT_NE(store, nullptr);
    std::set<uint64_t> there;
    for (size_t i = 0; i < fate.acknowledged; ++i) steps[i].removes ? (void)there.erase(steps[i].name) : (void)there.insert(steps[i].name);
    if (fate.acknowledged < steps.size()) there.erase(steps[fate.acknowledged].name);  // under way: either
    for (const uint64_t name : there) EXPECT_TRUE(Holds(*store, MakeTestBlock(name, kBytes))) << "killed at write " << write;
    for (size_t i = 0; i < fate.acknowledged; ++i) {
      if (!steps[i].removes) continue;
      EXPECT_FALSE(store->Read(TestKey(steps[i].name)).ok()) << "a removed block is back, killed at write " << write;
    }
    const auto report = store->Scrub(0, {});
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->corrupt, 0u) << "killed at write " << write;
    const TestBlock next = MakeTestBlock(999, kBytes);
    EXPECT_TRUE(store->Put(next.header, next.bytes, Durability::kSynced).ok()) << "it goes on";
    EXPECT_TRUE(Holds(*store, next));
  }
  EXPECT_FALSE(killed) << "it lived through all its writes in the end";
  EXPECT_GT(write, 7) << "there were points to die at";
}

/// Where there is room for few, so that every put makes others go, and the folder is used again and again after each death.
TEST_P(CrashPoints, ASmallFolderStaysWithinItsQuotaThroughManyDeaths) {
  TempFolder folder;
  const BlockStoreConfig config = TestConfig(folder.path(), 4 * kBytes, 256 << 10);
  Random random(static_cast<uint64_t>(GetParam()) + 1);
  std::set<uint64_t> removed;
  for (int life = 0; life < 6; ++life) {
    std::vector<Step> steps;
    for (int i = 0; i < 14; ++i) steps.push_back({static_cast<uint64_t>(1 + life * 100 + i), false});
    const Fate fate = Live(config, steps, static_cast<int64_t>(1 + random.Below(20)), GetParam());
    auto store = OpenTestStore(config);
    ASSERT_NE(store, nullptr);
    EXPECT_LE(store->stats().bytes_disk, config.disk_bytes);
    const auto report = store->Scrub(0, {});
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->corrupt, 0u) << "life " << life;
    EXPECT_EQ(report->checked, store->stats().blocks_disk);
    if (fate.acknowledged > 0) {
      EXPECT_TRUE(Holds(*store, MakeTestBlock(steps[fate.acknowledged - 1].name, kBytes))) << "the newest is the last to go";
    }
    const std::vector<BlockKey> keys = store->Keys();
    EXPECT_EQ(std::set<BlockKey>(keys.begin(), keys.end()).size(), keys.size()) << "no block is listed twice";
    for (const BlockListing& row : store->List()) EXPECT_GT(row.disk_bytes, row.bytes) << "with its header";
  }
  uint64_t extents = 0;
  for (const std::string& file : ExtentFiles(folder.path())) extents += FileSize(file);
  EXPECT_LE(extents, config.disk_bytes);
}

/// A look at a block's header is no way around its check: what does not verify is a miss, by whatever door.
TEST(Peeks, OfADamagedBlockAreMisses) {
  for (const bool read_only : {false, true}) {
    TempFolder folder;
    BlockStoreConfig config = TestConfig(folder.path());
    const TestBlock good = MakeTestBlock(1, kBytes), bad = MakeTestBlock(2, kBytes);
    {
      auto store = OpenTestStore(config);
      ASSERT_TRUE(store->Put(good.header, good.bytes, Durability::kSynced).ok());
      ASSERT_TRUE(store->Put(bad.header, bad.bytes, Durability::kSynced).ok());
    }
    const std::string extent = ReadFile(ExtentFiles(folder.path())[0]);
    const size_t at = extent.find(std::string(AsText(Bytes(bad.bytes).first(64))));
    ASSERT_NE(at, std::string::npos);
    FlipByte(ExtentFiles(folder.path())[0], at + 30);
    config.read_only = read_only;
    auto store = OpenTestStore(config);
    const auto header = store->Peek(good.header.key);
    ASSERT_TRUE(header.ok());
    EXPECT_EQ(*header, good.header);
    EXPECT_EQ(store->Peek(bad.header.key).status().code(), StatusCode::kNotFound);
    EXPECT_EQ(store->Peek(TestKey(3)).status().code(), StatusCode::kNotFound);
    EXPECT_EQ(store->stats().corrupt, 1u);
    EXPECT_EQ(store->stats().hits_disk + store->stats().hits_memory + store->stats().misses, 0u) << "a look is no use";
    EXPECT_EQ(store->stats().blocks_disk, read_only ? 2u : 1u) << "what is damaged is dropped where that may be";
  }
}

}  // namespace
}  // namespace baton
