// Randomness that every machine draws alike: values of an independent implementation, and the properties that sampling relies on.
#include "base/random.h"

#include <numeric>
#include <set>

namespace baton {
namespace {

TEST(RandomVectors, Philox) {  // computed from the paper's definition by an independent program
  EXPECT_EQ(Philox4x32(1, 2, 3), (std::array<uint32_t, 4>{0xf045e74a, 0x517630e6, 0x1d8af405, 0xb5e59a96}));
  EXPECT_EQ(Philox4x32(0x0123456789abcdef, 0xfedcba9876543210, 0x1122334455667788), (std::array<uint32_t, 4>{0x6cf185da, 0x70c6f6af, 0x5025c806, 0xa2ecc791}));
  EXPECT_EQ(Philox4x32(42, 7, 0), (std::array<uint32_t, 4>{0x5bbd83b1, 0x68784c85, 0x172067aa, 0x2e6b75b7}));
  EXPECT_EQ(Philox4x32(1ull << 63, 1ull << 63, 1ull << 63), (std::array<uint32_t, 4>{0x906863b4, 0x80af261e, 0x67c584be, 0x447f8c4e}));
}

TEST(RandomVectors, UniformDraws) {
  EXPECT_EQ(UniformAt(0, 0), 0.3990464708489645);
  EXPECT_EQ(UniformAt(1, 0), 0.8902591729757107);
  EXPECT_EQ(UniformAt(1, 1), 0.6719982688953429);
  EXPECT_EQ(UniformAt(1, 1, 1), 0.23174448682429127);
  EXPECT_EQ(UniformAt(~0ull, 123456, 3), 0.4852737795727964);
}

TEST(RandomVectors, Streams) {
  Random words(5), digits(5), large(9), order(3);
  for (const uint64_t word : {0xb4cd92cc265f7567ull, 0xf13cf39c778f2b79ull, 0xce6b14cd94b82b0cull, 0xa8431c04a0b7a290ull}) EXPECT_EQ(words.Next64(), word);
  for (const uint64_t digit : {3, 1, 0, 6, 3, 7, 1, 5, 1, 8, 3, 7, 4, 7, 1, 6}) EXPECT_EQ(digits.Below(10), digit);
  // A bound that refuses a quarter of all draws: those are drawn again, not folded.
  for (const uint64_t value : {5262545245935630450ull, 13108171350780151480ull, 13359334867757272344ull, 3995571757301197239ull}) EXPECT_EQ(large.Below(3ull << 62), value);
  std::vector<int> cards(10);
  std::iota(cards.begin(), cards.end(), 0);
  order.Shuffle(cards);
  EXPECT_EQ(cards, (std::vector<int>{8, 0, 3, 7, 5, 2, 9, 1, 6, 4}));
}

TEST(RandomProperties, UniformStaysInItsRangeAndFillsIt) {
  std::array<int, 16> counts{};
  for (uint64_t seed = 0; seed < 8; ++seed) {
    for (uint64_t position = 0; position < 2000; ++position) {
      const double u = UniformAt(seed * 0x123456789, position);
      ASSERT_GE(u, 0.0);
      ASSERT_LT(u, 1.0);
      ++counts[static_cast<size_t>(u * 16)];
    }
  }
  for (const int count : counts) EXPECT_NEAR(count, 1000, 150);
}

TEST(RandomProperties, SeedPositionAndIndexAllMatter) {
  std::set<double> seen;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    for (uint64_t position = 0; position < 10; ++position) {
      for (uint32_t index = 0; index < 10; ++index) EXPECT_TRUE(seen.insert(UniformAt(seed, position, index)).second) << seed << " " << position << " " << index;
    }
  }
  // The high halves of seed and position count too.
  EXPECT_NE(UniformAt(1, 0), UniformAt(1 | 1ull << 32, 0));
  EXPECT_NE(UniformAt(1, 1), UniformAt(1, 1 | 1ull << 32));
}

TEST(RandomProperties, BelowIsUniformAndInRange) {
  for (const uint64_t bound : {1ull, 2ull, 3ull, 7ull, 1000ull}) {
    Random random(bound);
    std::vector<int> counts(bound);
    const int draws = static_cast<int>(bound) * 400;
    for (int i = 0; i < draws; ++i) ++counts.at(random.Below(bound));
    for (const int count : counts) EXPECT_NEAR(count, 400, 110) << bound;
  }
  Random random(1);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(random.Below(1), 0u);
    EXPECT_LT(random.Below(~0ull), ~0ull);
    const double u = random.Uniform();
    EXPECT_TRUE(u >= 0 && u < 1);
  }
}

TEST(RandomProperties, ShufflesArePermutationsAndDiffer) {
  std::set<std::vector<int>> orders;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    std::vector<int> cards(12);
    std::iota(cards.begin(), cards.end(), 0);
    Random random(seed);
    random.Shuffle(cards);
    orders.insert(cards);
    std::sort(cards.begin(), cards.end());
    for (int i = 0; i < 12; ++i) EXPECT_EQ(cards[i], i);
  }
  EXPECT_EQ(orders.size(), 50u);
  std::vector<int> none, one = {7};
  Random random(0);
  random.Shuffle(none);
  random.Shuffle(one);
  EXPECT_EQ(one, std::vector<int>{7});
}

TEST(RandomProperties, TheSystemsSeedsDiffer) {
  std::set<uint64_t> seeds;
  for (int i = 0; i < 64; ++i) seeds.insert(EntropySeed());
  EXPECT_EQ(seeds.size(), 64u);
}

}  // namespace
}  // namespace baton
