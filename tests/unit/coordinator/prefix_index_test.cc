#include "coordinator/prefix_index.h"

#include <set>

#include "base/random.h"
#include "tests/support/test_pch.h"

namespace baton {
namespace {

BlockKey KeyOf(uint64_t number) { return {Sha256(std::as_bytes(std::span(&number, 1)))}; }

std::vector<BlockKey> Chain(uint64_t name, size_t blocks) {
  std::vector<BlockKey> chain;
  for (size_t i = 0; i < blocks; ++i) chain.push_back(KeyOf(name * 1000 + i));
  return chain;
}

/// What the index must agree with: the obvious map.
class NaiveIndex {
 public:
  void Add(WorkerId holder, const BlockKey& key) { held_[holder].insert(key); }
  void Remove(WorkerId holder, const BlockKey& key) { held_[holder].erase(key); }
  void Drop(WorkerId holder) { held_.erase(holder); }
  bool Holds(WorkerId holder, const BlockKey& key) const { return held_.count(holder) != 0 && held_.at(holder).count(key) != 0; }
  std::map<uint32_t, uint32_t> Match(std::span<const BlockKey> chain) const {
    std::map<uint32_t, uint32_t> out;
    for (const auto& [holder, keys] : held_) {
      uint32_t n = 0;
      while (n < chain.size() && keys.count(chain[n]) != 0) ++n;
      if (n > 0) out[holder.value] = n;
    }
    return out;
  }
  size_t holder_blocks() const {
    size_t n = 0;
    for (const auto& [holder, keys] : held_) n += keys.size();
    return n;
  }
  size_t keys() const {
    std::set<BlockKey> all;
    for (const auto& [holder, keys] : held_) all.insert(keys.begin(), keys.end());
    return all.size();
  }

 private:
  std::map<WorkerId, std::set<BlockKey>> held_;
};

std::map<uint32_t, uint32_t> MatchOf(const PrefixIndex& index, std::span<const BlockKey> chain) {
  std::vector<PrefixMatch> out = {{WorkerId(99), 99}};  // must be cleared
  index.Match(chain, out);
  std::map<uint32_t, uint32_t> map;
  for (size_t i = 0; i < out.size(); ++i) {
    EXPECT_TRUE(i == 0 || out[i].blocks <= out[i - 1].blocks) << "shorter matches come after longer ones";
    EXPECT_TRUE(map.emplace(out[i].worker.value, out[i].blocks).second) << "worker " << out[i].worker.value << " twice";
  }
  return map;
}
using Matches = std::map<uint32_t, uint32_t>;

TEST(PrefixIndex, EmptyIndexAndEmptyChainMatchNothing) {
  PrefixIndex index;
  EXPECT_EQ(MatchOf(index, Chain(1, 3)), Matches());
  index.Add(WorkerId(1), KeyOf(1000));
  EXPECT_EQ(MatchOf(index, {}), Matches());
}

TEST(PrefixIndex, LongestPrefixPerHolder) {
  PrefixIndex index;
  const auto chain = Chain(7, 20);
  for (size_t i = 0; i < 20; ++i) index.Add(WorkerId(1), chain[i]);
  for (size_t i = 0; i < 5; ++i) index.Add(WorkerId(2), chain[i]);
  index.Add(WorkerId(3), chain[0]);
  index.Add(WorkerId(4), chain[1]);  // without block 0 it is no prefix
  EXPECT_EQ(MatchOf(index, chain), (Matches{{1, 20}, {2, 5}, {3, 1}}));
  EXPECT_EQ(MatchOf(index, std::span(chain).first(3)), (Matches{{1, 3}, {2, 3}, {3, 1}}));
  EXPECT_EQ(MatchOf(index, std::span(chain).subspan(1, 2)), (Matches{{1, 2}, {2, 2}, {4, 1}}));
}

TEST(PrefixIndex, AGapEndsThePrefixAndFillingItRestoresIt) {
  PrefixIndex index;
  const auto chain = Chain(7, 10);
  for (const BlockKey& key : chain) index.Add(WorkerId(1), key);
  index.Remove(WorkerId(1), chain[4]);
  EXPECT_EQ(MatchOf(index, chain), (Matches{{1, 4}}));
  index.Add(WorkerId(1), chain[4]);
  EXPECT_EQ(MatchOf(index, chain), (Matches{{1, 10}}));
}

TEST(PrefixIndex, AddAndRemoveAreIdempotent) {
  PrefixIndex index;
  const BlockKey key = KeyOf(1);
  index.Remove(WorkerId(1), key);
  index.Add(WorkerId(1), key);
  index.Add(WorkerId(1), key);
  EXPECT_EQ(index.keys(), 1u);
  EXPECT_EQ(index.holder_blocks(), 1u);
  index.Remove(WorkerId(2), key);  // not its holder
  EXPECT_TRUE(index.Holds(WorkerId(1), key));
  index.Remove(WorkerId(1), key);
  index.Remove(WorkerId(1), key);
  EXPECT_EQ(index.keys(), 0u);
  EXPECT_EQ(index.holder_blocks(), 0u);
  EXPECT_FALSE(index.Holds(WorkerId(1), key));
}

TEST(PrefixIndex, DropForgetsOneHolderOnly) {
  PrefixIndex index;
  for (uint64_t i = 0; i < 5000; ++i) {
    index.Add(WorkerId(1), KeyOf(i));
    if (i % 2 == 0) index.Add(WorkerId(2), KeyOf(i));
    if (i % 3 == 0) index.Add(WorkerId(3), KeyOf(i));
  }
  index.Drop(WorkerId(1));
  EXPECT_EQ(index.holder_blocks(), 2500u + 1667u);
  for (uint64_t i = 0; i < 5000; ++i) {
    ASSERT_FALSE(index.Holds(WorkerId(1), KeyOf(i)));
    ASSERT_EQ(index.Holds(WorkerId(2), KeyOf(i)), i % 2 == 0);
    ASSERT_EQ(index.Holds(WorkerId(3), KeyOf(i)), i % 3 == 0);
  }
  index.Drop(WorkerId(1));
  index.Drop(WorkerId(2));
  index.Drop(WorkerId(3));
  EXPECT_EQ(index.keys(), 0u);
}

TEST(PrefixIndex, KeysThatWereNeverHashedAreToldApart) {
  PrefixIndex index;
  for (size_t byte = 0; byte < 32; ++byte) {
    BlockKey key;
    key.bytes[byte] = std::byte{1};
    index.Add(WorkerId(static_cast<uint32_t>(byte + 1)), key);
  }
  EXPECT_EQ(index.keys(), 32u);
}

TEST(PrefixIndex, EqualHighHalvesStayExactAndBounded) {
  PrefixIndex index;  // a peer's made-up keys: all in one place of one shard
  std::vector<BlockKey> keys(300);
  for (size_t i = 0; i < keys.size(); ++i) {
    keys[i].bytes[8] = static_cast<std::byte>(i & 255);
    keys[i].bytes[9] = static_cast<std::byte>(i >> 8);
    index.Add(WorkerId(1), keys[i]);
  }
  EXPECT_EQ(index.keys(), keys.size());
  EXPECT_LT(index.bytes(), 64u << 10);
  for (size_t i = 0; i < keys.size(); i += 2) index.Remove(WorkerId(1), keys[i]);
  for (size_t i = 0; i < keys.size(); ++i) ASSERT_EQ(index.Holds(WorkerId(1), keys[i]), i % 2 == 1) << i;
}

/// A key whose first half decides its place alone: `high` is what the index orders by, its top byte the shard.
BlockKey KeyAt(uint64_t high, uint64_t low) {
  uint64_t odd = 0x9e3779b97f4a7c15ull, inverse = odd;
  for (int i = 0; i < 6; ++i) inverse *= 2 - odd * inverse;  // Newton's, modulo 2^64
  BlockKey key;
  const uint64_t words[2] = {high * inverse, low};
  std::memcpy(key.bytes.data(), words, sizeof words);
  return key;
}

struct Crowd {
  const char* name;
  uint64_t first, step;  // of `high`
};
class PrefixIndexCrowded : public ::testing::TestWithParam<Crowd> {};

/// Runs that begin at a shard's first home, end behind its last one, or fill the one slot where two shards meet: what is
/// added, taken out and asked for in any order is found, and a search never leaves its shard.
TEST_P(PrefixIndexCrowded, EveryOrderOfChangesAgreesWithANaiveMap) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Random random(seed);
    std::vector<BlockKey> keys;
    for (uint64_t i = 0; i < 60; ++i) keys.push_back(KeyAt(GetParam().first + i * GetParam().step, i));
    PrefixIndex index;
    NaiveIndex naive;
    for (int step = 0; step < 400; ++step) {
      const WorkerId holder(1 + static_cast<uint32_t>(random.Below(2)));
      const BlockKey& key = keys[random.Below(keys.size())];
      const bool add = random.Below(100) < (step / 100 % 2 == 0 ? 80u : 20u);  // grows, shrinks, grows, shrinks
      ASSERT_EQ(add ? index.Add(holder, key) : index.Remove(holder, key), add != naive.Holds(holder, key)) << seed << " " << step;
      add ? naive.Add(holder, key) : naive.Remove(holder, key);
      const size_t from = random.Below(keys.size());
      const auto asked = std::span(keys).subspan(from, random.Below(keys.size() - from) + 1);
      ASSERT_EQ(MatchOf(index, asked), naive.Match(asked)) << "seed " << seed << " step " << step;
    }
    for (const BlockKey& key : keys) {
      for (const uint32_t holder : {1u, 2u, 3u}) ASSERT_EQ(index.Holds(WorkerId(holder), key), naive.Holds(WorkerId(holder), key));
    }
    index.Drop(WorkerId(1)), naive.Drop(WorkerId(1));
    ASSERT_EQ(index.keys(), naive.keys());
    ASSERT_EQ(MatchOf(index, keys), naive.Match(keys));
  }
}
INSTANTIATE_TEST_SUITE_P(Places, PrefixIndexCrowded,
                         ::testing::Values(Crowd{"FirstHome", 0, 0}, Crowd{"LastHome", (1ull << 56) - 1, 0}, Crowd{"LastHomeOfAll", ~0ull, 0},
                                           Crowd{"AcrossTwoShards", (1ull << 56) - 30, 1}, Crowd{"LastHomesOfAll", ~0ull - 59, 1},
                                           Crowd{"OneEachShard", 0, 1ull << 56}, Crowd{"EvenlyInOne", 7ull << 56, 1ull << 50}),
                         [](const auto& info) { return std::string(info.param.name); });

/// A look-up has the next sixteen keys on their way: chains around that length, each with its end in every place.
TEST(PrefixIndex, AChainIsHeldUpToItsFirstGapWhereverThatIs) {
  for (const size_t length : {1u, 2u, 15u, 16u, 17u, 31u, 32u, 33u, 80u}) {
    const auto chain = Chain(length, length);
    PrefixIndex index;
    for (const BlockKey& key : chain) index.Add(WorkerId(5), key);
    EXPECT_EQ(MatchOf(index, chain), (Matches{{5, length}}));
    for (size_t gap = 0; gap < length; ++gap) {
      index.Remove(WorkerId(5), chain[gap]);
      EXPECT_EQ(MatchOf(index, chain), gap == 0 ? Matches() : (Matches{{5, gap}})) << length << " blocks, without block " << gap;
      EXPECT_EQ(MatchOf(index, std::span(chain).subspan(gap)), Matches());
      index.Add(WorkerId(5), chain[gap]);
    }
  }
}

TEST(PrefixIndex, MemoryPerBlockAndItsReturn) {
  PrefixIndex index;
  const uint64_t n = 200'000;
  for (uint64_t i = 0; i < n; ++i) {
    index.Add(WorkerId(static_cast<uint32_t>(1 + i % 64)), KeyOf(i));
    if (i > 50'000 && i % 1000 == 0) {
      ASSERT_LE(static_cast<double>(index.bytes()) / static_cast<double>(i), 27.0) << i;
    }
  }
  for (uint64_t i = 0; i < n; ++i) index.Remove(WorkerId(static_cast<uint32_t>(1 + i % 64)), KeyOf(i));
  EXPECT_EQ(index.keys(), 0u);
  EXPECT_LT(index.bytes(), 300'000u);
}

/// A random forest of chains: queries share prefixes as real prompts do.
std::vector<std::vector<BlockKey>> Forest(Random& random, size_t chains) {
  std::vector<std::vector<BlockKey>> forest;
  uint64_t next = 1'000'000;
  for (size_t c = 0; c < chains; ++c) {
    std::vector<BlockKey> chain;
    if (!forest.empty()) {
      const auto& parent = forest[random.Below(forest.size())];
      chain.assign(parent.begin(), parent.begin() + random.Below(parent.size() + 1));
    }
    const size_t grow = 1 + random.Below(12);
    for (size_t i = 0; i < grow; ++i) chain.push_back(KeyOf(next++));
    forest.push_back(chain);
  }
  return forest;
}

class PrefixIndexRandom : public ::testing::TestWithParam<uint64_t> {};

TEST_P(PrefixIndexRandom, AgreesWithANaiveMapOnEveryQuery) {
  Random random(GetParam());
  const auto forest = Forest(random, 120);
  const uint32_t workers = 1 + static_cast<uint32_t>(random.Below(12));
  PrefixIndex index;
  NaiveIndex naive;
  for (int step = 0; step < 6000; ++step) {
    const WorkerId holder(1 + static_cast<uint32_t>(random.Below(workers)));
    const auto& chain = forest[random.Below(forest.size())];
    const uint64_t kind = random.Below(1000);
    if (kind < 500) {  // a prompt is computed
      const size_t upto = 1 + random.Below(chain.size());
      for (size_t i = 0; i < upto; ++i) index.Add(holder, chain[i]), naive.Add(holder, chain[i]);
    } else if (kind < 800) {  // eviction, mostly of leaves
      const size_t from = random.Below(chain.size());
      for (size_t i = from; i < chain.size(); ++i) index.Remove(holder, chain[i]), naive.Remove(holder, chain[i]);
    } else if (kind < 990) {  // a single block: holes happen when events are lost
      const BlockKey& key = chain[random.Below(chain.size())];
      index.Remove(holder, key), naive.Remove(holder, key);
    } else {
      index.Drop(holder), naive.Drop(holder);
    }
    const auto& asked = forest[random.Below(forest.size())];
    ASSERT_EQ(MatchOf(index, asked), naive.Match(asked)) << "step " << step;
    if (step % 500 == 0) {
      ASSERT_EQ(index.holder_blocks(), naive.holder_blocks());
      ASSERT_EQ(index.keys(), naive.keys());
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Seeds, PrefixIndexRandom, ::testing::Range<uint64_t>(1, 9));

TEST(HolderSets, EqualSetsAreOneAndUnusedOnesVanish) {
  HolderSets sets;
  HolderRef a = sets.With(sets.With(sets.With(kNoHolder, 3), 1), 2);
  HolderRef b = sets.With(sets.With(sets.With(kNoHolder, 2), 3), 1);
  EXPECT_EQ(a, b);
  EXPECT_EQ(sets.shared_sets(), 1u);
  EXPECT_THAT(sets.Members(a), ::testing::ElementsAre(1, 2, 3));
  a = sets.Without(a, 2);
  EXPECT_THAT(sets.Members(a), ::testing::ElementsAre(1, 3));
  EXPECT_EQ(sets.shared_sets(), 2u);
  a = sets.Without(a, 1);
  EXPECT_THAT(sets.Members(a), ::testing::ElementsAre(3));
  EXPECT_EQ(sets.Without(a, 7), a);
  EXPECT_EQ(sets.Without(a, 3), kNoHolder);
  for (const uint32_t holder : {1u, 2u, 3u}) b = sets.Without(b, holder);
  EXPECT_EQ(b, kNoHolder);
  EXPECT_EQ(sets.shared_sets(), 0u);
}

TEST(HolderSets, MemoryIsReused) {
  HolderSets sets;
  size_t after_first = 0;
  for (int round = 0; round < 100; ++round) {
    HolderRef set = kNoHolder;
    for (uint32_t holder = 1; holder <= 64; ++holder) set = sets.With(set, holder);
    for (uint32_t holder = 64; holder >= 1; --holder) set = sets.Without(set, holder);
    if (round == 0) after_first = sets.bytes();
  }
  EXPECT_LE(sets.bytes(), after_first);
}

}  // namespace
}  // namespace baton
