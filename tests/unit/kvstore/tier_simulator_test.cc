// The tier on paper: against the live store, against the best in hindsight, and the bars on the public traces.
#include "kvstore/tier_simulator.h"

#include "base/random.h"
#include "tests/unit/kvstore/store_support.h"

namespace baton {
namespace {

std::unique_ptr<CachePolicy> Make(std::string_view name) {
  auto policy = MakeCachePolicy(name);
  EXPECT_TRUE(policy.ok());
  return std::move(policy).value();
}

std::optional<BlockTrace> PublicTrace(const std::string& name) {
  std::ifstream file(std::string(BATON_SHARED_DIR) + "/traces/" + name + "_trace.jsonl");
  if (!file) return std::nullopt;
  BlockTrace trace;
  for (std::string line; std::getline(file, line);) trace.push_back(nlohmann::json::parse(line)["hash_ids"].get<std::vector<uint64_t>>());
  return trace;
}

/// Conversations that grow, with some that never go on: names are unique, parents fixed.
BlockTrace MadeTrace(uint64_t seed, size_t requests) {
  Random random(seed);
  BlockTrace trace;
  std::vector<std::vector<uint64_t>> open;
  uint64_t next = 1;
  for (size_t i = 0; i < requests; ++i) {
    if (open.empty() || random.Below(3) == 0) open.push_back({0});  // all share a first block
    const size_t which = random.Below(open.size());
    for (uint64_t n = 1 + random.Below(4); n > 0; --n) open[which].push_back(next++);
    trace.push_back(open[which]);
    if (random.Below(4) == 0) open.erase(open.begin() + static_cast<std::ptrdiff_t>(which));
    if (open.size() > 12) open.erase(open.begin());
  }
  return trace;
}

double Ratio(std::string_view policy, size_t capacity, const BlockTrace& trace) {
  TierSimulator tier(Make(policy), capacity);
  for (const auto& request : trace) tier.Replay(request);
  return tier.hit_ratio();
}

/// The longest prefix found in a live store in memory, which then gets the rest, as a worker does.
class LiveReplay {
 public:
  static constexpr size_t kBytes = 64;
  LiveReplay(std::string_view policy, size_t capacity) {
    BlockStoreConfig config;
    config.memory_bytes = capacity * kBytes;
    config.policy = policy;
    store_ = OpenTestStore(config);
    header_.digest = Xxh3(bytes_);
  }
  size_t Replay(std::span<const uint64_t> request) {
    size_t found = 0;
    BlockKey parent = TestKey(~0ull);
    for (size_t depth = 0; depth < request.size(); ++depth) {
      header_.key = Key(request[depth]);
      header_.parent = parent;
      header_.depth = static_cast<uint32_t>(depth);
      if (found == depth && store_->View(header_.key).ok()) {
        ++found;
      } else if (!store_->Put(header_, bytes_).ok()) {
        break;
      }
      parent = header_.key;
    }
    return found;
  }

 private:
  /// Of which the policy sees the simulator's hash.
  static BlockKey Key(uint64_t name) {
    BlockKey key;
    const uint64_t hash = Xxh3_64(std::as_bytes(std::span(&name, 1)));
    std::memcpy(key.bytes.data(), &hash, sizeof hash);
    std::memcpy(key.bytes.data() + 8, &name, sizeof name);
    return key;
  }
  std::unique_ptr<BlockStore> store_;
  std::vector<std::byte> bytes_{kBytes};
  BlockHeader header_;
};

TEST(TierSimulator, AgreesWithTheLiveStoreBlockForBlock) {
  for (const char* policy : {"lru", "s3fifo", "cost"}) {
    for (const size_t capacity : {20, 70, 300}) {
      const BlockTrace trace = MadeTrace(capacity, 1500);
      TierSimulator paper(Make(policy), capacity);
      LiveReplay live(policy, capacity);
      for (size_t i = 0; i < trace.size(); ++i) ASSERT_EQ(paper.Replay(trace[i]), live.Replay(trace[i])) << policy << " " << capacity << " request " << i;
      EXPECT_GT(paper.hits(), trace.size()) << "more than the block all share";
    }
  }
}

TEST(TierSimulator, AgreesWithTheLiveStoreOnAPublicTrace) {
  const auto trace = PublicTrace("conversation");
  if (!trace) GTEST_SKIP() << "no trace in " << BATON_SHARED_DIR << "/traces";
  TierSimulator paper(Make("cost"), 3000);
  LiveReplay live("cost", 3000);
  for (size_t i = 0; i < 3000; ++i) ASSERT_EQ(paper.Replay((*trace)[i]), live.Replay((*trace)[i])) << "request " << i;
}

TEST(TierSimulator, ARequestLongerThanTheTierKeepsItsBeginning) {
  TierSimulator tier(Make("lru"), 3);
  const std::vector<uint64_t> request = {1, 2, 3, 4, 5};
  EXPECT_EQ(tier.Replay(request), 0u);
  EXPECT_EQ(tier.Replay(request), 3u);
  EXPECT_EQ(tier.accesses(), 10u);
  EXPECT_DOUBLE_EQ(tier.hit_ratio(), 0.3);
}

TEST(TierSimulator, OnlyAPrefixIsFound) {
  TierSimulator tier(Make("lru"), 100);
  tier.Replay(std::vector<uint64_t>{1, 2, 3});
  EXPECT_EQ(tier.Replay(std::vector<uint64_t>{1, 2, 9, 3}), 2u);  // 3 is held, behind a block that was not
  EXPECT_EQ(tier.Replay(std::vector<uint64_t>{}), 0u);
}

/// The best by trying all: which block to give up, or not to take in, at each access.
size_t BestByTrying(std::span<const uint64_t> accesses, size_t capacity, std::set<uint64_t> held) {
  if (accesses.empty()) return 0;
  const uint64_t now = accesses[0];
  if (held.contains(now)) return 1 + BestByTrying(accesses.subspan(1), capacity, held);
  size_t best = BestByTrying(accesses.subspan(1), capacity, held);
  std::set<uint64_t> with = held;
  with.insert(now);
  if (with.size() <= capacity) return std::max(best, BestByTrying(accesses.subspan(1), capacity, with));
  for (const uint64_t victim : held) {
    std::set<uint64_t> without = with;
    without.erase(victim);
    best = std::max(best, BestByTrying(accesses.subspan(1), capacity, without));
  }
  return best;
}

TEST(OfflineHitRatio, IsTheBestThereIs) {
  Random random(4);
  for (int round = 0; round < 200; ++round) {
    BlockTrace trace(1);
    for (int i = 0; i < 9; ++i) trace[0].push_back(random.Below(5));
    for (const size_t capacity : {1, 2, 3}) {
      ASSERT_NEAR(OfflineHitRatio(trace, capacity) * 9, static_cast<double>(BestByTrying(trace[0], capacity, {})), 1e-9) << round;
    }
  }
  EXPECT_EQ(OfflineHitRatio({}, 3), 0);
}

TEST(OfflineHitRatio, NoPolicyBeatsIt) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const BlockTrace trace = MadeTrace(seed, 800);
    for (const size_t capacity : {10, 50, 200}) {
      const double bound = OfflineHitRatio(trace, capacity);
      for (const char* policy : {"lru", "s3fifo", "cost"}) EXPECT_LE(Ratio(policy, capacity, trace), bound + 1e-9) << policy << seed;
    }
  }
}

// The bars: never under LRU by more than a thousandth on either trace; on the conversation trace, which nothing was tuned on,
// .160 of the blocks at 5,000 and .300 at 20,000. Golden to a thousandth, so that a change of the policy shows.
TEST(TierSimulator, HitRatiosOnThePublicTraces) {
  struct Row {
    size_t capacity;
    double synthetic, conversation;
  };
  const std::vector<Row> golden = {{1000, 0.0881, 0.0745}, {2000, 0.1542, 0.1068}, {5000, 0.2922, 0.1655}, {10000, 0.4472, 0.2332}, {20000, 0.5864, 0.3051}, {35000, 0.6350, 0.3432}, {50000, 0.6396, 0.3557}};
  for (const bool conversation : {false, true}) {
    const auto trace = PublicTrace(conversation ? "conversation" : "synthetic");
    if (!trace) GTEST_SKIP() << "no traces in " << BATON_SHARED_DIR << "/traces";
    for (const Row& row : golden) {
      const double lru = Ratio("lru", row.capacity, *trace), cost = Ratio("cost", row.capacity, *trace);
      EXPECT_NEAR(cost, conversation ? row.conversation : row.synthetic, 0.001) << row.capacity;
      EXPECT_GE(cost, lru - 0.001) << row.capacity;
      EXPECT_LE(cost, OfflineHitRatio(*trace, row.capacity)) << row.capacity;
      if (!conversation) continue;
      const double bar = row.capacity == 5000 ? 0.160 : row.capacity == 20000 ? 0.300 : 0;
      EXPECT_GE(cost, bar) << row.capacity;
    }
  }
}

}  // namespace
}  // namespace baton
