// The simulated store keeps the very blocks that the live one keeps: a trace is replayed through both and every look-up compared.
#include "app/sim/store.h"

#include <filesystem>

#include "app/trace.h"
#include "base/random.h"
#include "kvstore/block_store.h"
#include "tests/support/test_pch.h"

namespace baton {
namespace {

constexpr size_t kBytes = 512;  // of a block here

std::vector<BlockKey> Chain(const std::vector<uint64_t>& ids) {
  TraceRequest request;
  request.prompt_tokens = static_cast<uint32_t>(ids.size()) * kTraceBlockTokens;
  request.hash_ids = ids;
  return request.Keys();
}

/// A live store, asked as a worker asks it: look up, read what is held, put the rest.
class Live {
 public:
  explicit Live(uint64_t memory_blocks, const std::string& policy, std::string path = {}) {
    BlockStoreConfig config;
    config.path = std::move(path);
    config.memory_bytes = memory_blocks * kBytes;
    config.block_bytes = kBytes;
    config.policy = policy;
    on_disk_ = !config.path.empty();
    store_ = std::move(*OpenBlockStore(config, {.clock = &clock_}));
  }
  /// How many blocks were held, and how many came from memory.
  std::pair<size_t, size_t> Ask(std::span<const BlockKey> chain) {
    const size_t held = store_->Lookup(chain);
    size_t from_memory = 0;
    for (size_t i = 0; i < held; ++i) {
      const auto view = store_->View(chain[i]);
      EXPECT_TRUE(view.ok());
      from_memory += view.ok() && !view->from_disk ? 1 : 0;
    }
    for (size_t i = held; i < chain.size(); ++i) {
      std::vector<std::byte> bytes(kBytes, static_cast<std::byte>(i));
      BlockHeader header;
      header.key = chain[i];
      header.parent = i == 0 ? BlockKey() : chain[i - 1];
      header.depth = static_cast<uint32_t>(i);
      header.tokens = 512;
      header.digest = Xxh3(bytes);
      EXPECT_TRUE(store_->Put(header, bytes).ok());
      if (on_disk_) {
        EXPECT_TRUE(store_->Flush().ok());  // the simulated writer is never behind
      }
    }
    return {held, from_memory};
  }

 private:
  FakeClock clock_;
  bool on_disk_ = false;
  std::unique_ptr<BlockStore> store_;
};

std::pair<size_t, size_t> AskSimulated(SimStore& store, std::span<const BlockKey> chain) {
  const size_t held = store.Lookup(chain);
  size_t from_memory = 0;
  for (size_t i = 0; i < held; ++i) from_memory += store.Read(chain[i]) == SimTier::kMemory ? 1 : 0;
  EXPECT_TRUE(store.Put(chain, held));
  return {held, from_memory};
}

class SameAsLive : public ::testing::TestWithParam<std::string> {};

TEST_P(SameAsLive, BlockForBlockOverTheConversationTrace) {
  const auto trace = ReadTrace(BATON_SHARED_DIR "/traces/conversation_trace.jsonl");
  if (!trace.ok()) GTEST_SKIP() << trace.status().ToString();
  for (const uint64_t capacity : {400u, 3000u}) {
    Live live(capacity, GetParam());
    auto simulated = std::move(*SimStore::Create(capacity, 0, GetParam()));
    size_t hits = 0, asked = 0;
    for (size_t r = 0; r < 1500; ++r) {
      auto chain = (*trace)[r].Keys();
      chain.resize(std::min<size_t>(chain.size(), capacity / 2));
      const auto want = live.Ask(chain), got = AskSimulated(*simulated, chain);
      ASSERT_EQ(got, want) << "request " << r << ", capacity " << capacity;
      hits += got.first;
      asked += chain.size();
    }
    EXPECT_GT(hits, asked / 100) << "or nothing was compared";
    EXPECT_GT(simulated->evictions(), 100u);
    EXPECT_LE(simulated->memory_blocks(), capacity);
  }
}

TEST_P(SameAsLive, WithADiskBehindASmallMemory) {
  std::string folder = (std::filesystem::temp_directory_path() / "baton_simstore_XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  {
    Live live(10, GetParam(), folder);
    auto simulated = std::move(*SimStore::Create(10, 100'000, GetParam()));
    Random random(7);
    size_t from_disk = 0;
    for (size_t r = 0; r < 120; ++r) {
      std::vector<uint64_t> ids;
      const uint64_t conversation = random.Below(6), turns = 1 + random.Below(7);
      for (uint64_t i = 0; i < turns; ++i) ids.push_back(conversation * 100 + i);
      const auto chain = Chain(ids);
      const auto want = live.Ask(chain), got = AskSimulated(*simulated, chain);
      ASSERT_EQ(got, want) << "request " << r;
      from_disk += got.first - got.second;
    }
    EXPECT_GT(from_disk, 20u) << "or the disk was never asked";
    EXPECT_EQ(simulated->evictions(), 0u) << "what leaves memory is still on disk";
  }
  std::filesystem::remove_all(folder);
}

INSTANTIATE_TEST_SUITE_P(Policies, SameAsLive, ::testing::Values("lru", "s3fifo", "cost"));

TEST(SimStore, ChangesAreWhatIsHeldNow) {
  auto store = std::move(*SimStore::Create(3, 0, "lru"));
  const auto a = Chain({1, 2, 3}), b = Chain({7, 8});
  EXPECT_TRUE(store->Put(a, 0));
  EXPECT_EQ(store->DrainChanges().size(), 3u);
  EXPECT_TRUE(store->DrainChanges().empty());
  EXPECT_TRUE(store->Put(b, 0));
  std::map<BlockKey, bool> changes;
  for (const HeldChange& change : store->DrainChanges()) changes[change.key] = change.added;
  EXPECT_EQ(changes, (std::map<BlockKey, bool>{{b[0], true}, {b[1], true}, {a[1], false}, {a[2], false}})) << "a chain goes from its end";
  EXPECT_EQ(store->Lookup(a), 1u);
}

TEST(SimStore, ARestartKeepsTheDisk) {
  auto store = std::move(*SimStore::Create(10, 10, "lru"));
  const auto chain = Chain({1, 2, 3});
  EXPECT_TRUE(store->Put(chain, 0));
  store->DrainChanges();
  store->Restart();
  EXPECT_EQ(store->memory_blocks(), 0u);
  EXPECT_EQ(store->Lookup(chain), 3u);
  EXPECT_EQ(store->DrainChanges().size(), 3u) << "a snapshot for the coordinator";
  EXPECT_EQ(store->Read(chain[0]), SimTier::kDisk);
  EXPECT_EQ(store->Read(chain[0]), SimTier::kMemory) << "it came into memory";
  auto memory_only = std::move(*SimStore::Create(10, 0, "lru"));
  EXPECT_TRUE(memory_only->Put(chain, 0));
  memory_only->Restart();
  EXPECT_EQ(memory_only->Lookup(chain), 0u);
  EXPECT_EQ(memory_only->Read(chain[0]), SimTier::kNone);
}

TEST(SimStore, AFullDiskGivesUpEndsAndMemoryMayStillHoldThem) {
  auto store = std::move(*SimStore::Create(4, 2, "lru"));
  const auto chain = Chain({1, 2});
  EXPECT_TRUE(store->Put(chain, 0));
  EXPECT_TRUE(store->Put(Chain({5, 6}), 0));
  EXPECT_EQ(store->disk_blocks(), 2u);
  EXPECT_EQ(store->Lookup(chain), 2u) << "from memory";
  EXPECT_EQ(store->Read(chain[1]), SimTier::kMemory);
  EXPECT_EQ(store->evictions(), 0u);
}

TEST(SimStore, DiskOnly) {
  auto store = std::move(*SimStore::Create(0, 3, "lru"));
  EXPECT_TRUE(store->Put(Chain({1, 2}), 0));
  EXPECT_EQ(store->Read(Chain({1})[0]), SimTier::kDisk);
  EXPECT_EQ(store->Read(Chain({1})[0]), SimTier::kDisk) << "there is no memory to come into";
  EXPECT_TRUE(store->Put(Chain({3, 4}), 0));
  EXPECT_EQ(store->disk_blocks(), 3u);
  EXPECT_EQ(store->evictions(), 1u);
}

TEST(SimStore, UnknownPoliciesAreRefused) { EXPECT_EQ(SimStore::Create(1, 1, "best").status().code(), StatusCode::kInvalid); }

}  // namespace
}  // namespace baton
