// Bounds of numbers as expressions over digits: every number of a grid, in several spellings, is taken exactly when it is within
// the bounds. The bounds are drawn at random and from the places where digits carry.
#include <cmath>

#include "tests/unit/model/grammar_support.h"

namespace baton {
namespace {

NumberBounds Between(std::optional<double> least, std::optional<double> most, bool above = false, bool below = false) { return {least, most, above, below}; }

std::string Describe(const NumberBounds& b) {
  return fmt::format("{}{} .. {}{}", b.above ? ">" : "", b.least ? fmt::format("{}", *b.least) : "-", b.below ? "<" : "", b.most ? fmt::format("{}", *b.most) : "-");
}

bool Within(const NumberBounds& b, double x) {
  if (b.least && (b.above ? x <= *b.least : x < *b.least)) return false;
  return !b.most || (b.below ? x < *b.most : x <= *b.most);
}

/// Null where the bounds are refused.
std::shared_ptr<GrammarMatcher> MatcherOf(const NumberBounds& bounds, bool integer) {
  const auto expression = integer ? IntegerExpression(bounds) : NumberExpression(bounds);
  return expression.ok() ? NewMatcher("root ::= " + *expression) : nullptr;
}

class BoundSeeds : public testing::TestWithParam<uint64_t> {
 protected:
  NumberBounds Draw(Random& random, double unit) {
    const auto value = [&] {
      static const double kEdges[] = {0, 1, -1, 9, 10, 99, 100, 101, 999, 1000, -9, -10, -100, 0.5, -0.5, 0.0625, 9.9375, 10.0625};
      if (random.Below(2) == 0) return kEdges[random.Below(std::size(kEdges))];
      return (static_cast<double>(random.Below(40'000)) - 20'000) * unit;
    };
    NumberBounds bounds;
    if (random.Below(4) != 0) bounds.least = value(), bounds.above = random.Below(2) == 0;
    if (!bounds.least || random.Below(4) != 0) bounds.most = value(), bounds.below = random.Below(2) == 0;
    if (bounds.least && bounds.most && *bounds.least > *bounds.most) std::swap(*bounds.least, *bounds.most);
    return bounds;
  }
};
INSTANTIATE_TEST_SUITE_P(Property, BoundSeeds, testing::Range<uint64_t>(1, 31));

TEST_P(BoundSeeds, IntegersAreTakenExactlyWithin) {
  Random random(GetParam());
  for (int round = 0; round < 6; ++round) {
    const NumberBounds bounds = Draw(random, 0.125);
    const auto matcher = MatcherOf(bounds, true);
    int within = 0;
    for (int64_t x = -2600; x <= 2600; x += 1 + (std::abs(x) > 1100 ? 7 : 0)) {
      within += Within(bounds, static_cast<double>(x));
      if (matcher == nullptr) continue;
      ASSERT_EQ(Matches(*matcher, std::to_string(x)), Within(bounds, static_cast<double>(x))) << Describe(bounds) << " at " << x;
    }
    EXPECT_EQ(matcher == nullptr, within == 0) << Describe(bounds);
    if (matcher == nullptr) continue;
    for (const char* text : {"", "-", "+1", "00", "01", "-01", "-0", "1.", "1.0", "1e2", "0x1", " 1"}) EXPECT_FALSE(Matches(*matcher, text)) << Describe(bounds) << " at " << text;
  }
}

TEST_P(BoundSeeds, DecimalsAreTakenExactlyWithin) {
  Random random(GetParam() + 100);
  for (int round = 0; round < 6; ++round) {
    const NumberBounds bounds = Draw(random, 1.0 / 64);
    const auto matcher = MatcherOf(bounds, false);
    const bool empty = bounds.least && bounds.most && *bounds.least == *bounds.most && (bounds.above || bounds.below);
    ASSERT_EQ(matcher == nullptr, empty) << Describe(bounds);
    if (empty) continue;
    for (int i = 0; i < 700; ++i) {
      double x = (static_cast<double>(random.Below(80'000)) - 40'000) / 128;
      if (i % 3 == 1) x = bounds.least.value_or(*bounds.most) + (static_cast<double>(random.Below(9)) - 4) / 1024;
      if (i % 3 == 2) x = bounds.most.value_or(*bounds.least) + (static_cast<double>(random.Below(9)) - 4) / 1024;
      const std::string exact = fmt::format("{:.16f}", x);
      std::string text = exact.substr(0, exact.find('.') + 1 + 15);
      if (std::strtod(text.c_str(), nullptr) != x) continue;
      if (random.Below(2) == 0) text.erase(text.find_last_not_of('0') + 1);
      if (text.back() == '.') text.pop_back();
      ASSERT_EQ(Matches(*matcher, text), Within(bounds, std::strtod(text.c_str(), nullptr))) << Describe(bounds) << " at " << text;
    }
    for (const char* text : {"", "-", ".5", "-.5", "1.", "01.5", "1.5.2", "1e5", "+1"}) EXPECT_FALSE(Matches(*matcher, text)) << Describe(bounds) << " at " << text;
  }
}

struct BoundCase {
  NumberBounds bounds;
  std::vector<const char*> in, out;
};

TEST(NumberBounds, BetweenTwoNeighbouringIntegers) {
  const std::vector<BoundCase> cases{
      {Between(0.25, 0.75), {"0.25", "0.250", "0.5", "0.3", "0.7499", "0.75", "0.7500"}, {"0", "0.2", "0.24999", "0.7501", "0.8", "1", "-0.5"}},
      {Between(0.25, 0.75, true, true), {"0.2501", "0.5", "0.749"}, {"0.25", "0.2500", "0.75", "0.750", "0.2"}},
      {Between(2.5, 2.5), {"2.5", "2.50"}, {"2", "2.4", "2.51", "3"}},
      {Between(0.1, 0.11), {"0.1", "0.10", "0.105", "0.11", "0.110"}, {"0.09", "0.111", "0.2", "0"}},
      {Between(0.1, 0.11, true, true), {"0.105", "0.1001", "0.1099"}, {"0.1", "0.100", "0.11", "0.110"}},
      {Between(-0.75, -0.25), {"-0.25", "-0.75", "-0.5"}, {"-0", "-0.2", "-0.76", "0.5", "-1"}},
      {Between(-0.5, 0.5), {"0", "-0", "0.0", "0.5", "-0.5", "0.49", "-0.25"}, {"0.51", "-0.51", "1", "-1"}},
      {Between(0, 0.5, true), {"0.1", "0.00001", "0.5"}, {"0", "0.0", "0.51", "-0.1"}},
      {Between(0, 1e-3, true, true), {"0.0005", "0.00001"}, {"0", "0.001", "0.0010", "0.01", "1"}},
      {Between(3, 4, true, true), {"3.5", "3.0001", "3.999"}, {"3", "4", "3.0", "4.0"}},
      {Between(10.05, 10.15), {"10.05", "10.1", "10.15"}, {"10.04", "10.049999", "10.16"}},
      {Between(9.5, 10.5), {"9.5", "9.99", "10", "10.0", "10.5"}, {"9.49", "9", "10.51", "11"}}};
  for (const BoundCase& c : cases) {
    const auto matcher = MatcherOf(c.bounds, false);
    ASSERT_NE(matcher, nullptr) << Describe(c.bounds);
    for (const char* text : c.in) EXPECT_TRUE(Matches(*matcher, text)) << Describe(c.bounds) << " should take " << text;
    for (const char* text : c.out) EXPECT_FALSE(Matches(*matcher, text)) << Describe(c.bounds) << " should not take " << text;
  }
}

/// A "-0" is 0: it must not slip through a bound that excludes 0.
TEST(NumberBounds, MinusZeroIsZero) {
  const auto below = MatcherOf(Between(std::nullopt, 0, false, true), false);
  for (const char* text : {"-0", "-0.0", "0", "0.0"}) EXPECT_FALSE(Matches(*below, text)) << text;
  for (const char* text : {"-1", "-0.1", "-0.001", "-10"}) EXPECT_TRUE(Matches(*below, text)) << text;
  const auto from_below = MatcherOf(Between(-5, 0, false, true), false);
  EXPECT_FALSE(Matches(*from_below, "-0"));
  EXPECT_TRUE(Matches(*from_below, "-5"));
  const auto up_to = MatcherOf(Between(std::nullopt, 0), false);
  for (const char* text : {"-0", "-0.0", "0", "-3.5"}) EXPECT_TRUE(Matches(*up_to, text)) << text;
}

TEST(NumberBounds, ABoundOfMinusZeroIsOneOfZero) {
  for (const bool integer : {false, true}) {
    const auto from = MatcherOf(Between(-0.0, 3), integer);
    for (const char* text : {"0", "1", "3"}) EXPECT_TRUE(Matches(*from, text)) << text;
    for (const char* text : {"4", "-1"}) EXPECT_FALSE(Matches(*from, text)) << text;
    const auto to = MatcherOf(Between(-3, -0.0), integer);
    for (const char* text : {"0", "-1", "-3"}) EXPECT_TRUE(Matches(*to, text)) << text;
    for (const char* text : {"1", "-4"}) EXPECT_FALSE(Matches(*to, text)) << text;
  }
}

TEST(NumberBounds, WhatCannotBeIsSaid) {
  const auto message = [](const NumberBounds& bounds, bool integer) {
    const auto expression = integer ? IntegerExpression(bounds) : NumberExpression(bounds);
    return expression.ok() ? "taken: " + *expression : expression.status().message();
  };
  EXPECT_THAT(message(Between(5, 4), false), testing::HasSubstr("the bounds 5 and 4 allow no number"));
  EXPECT_THAT(message(Between(5, 5, true), false), testing::HasSubstr("allow no number"));
  EXPECT_THAT(message(Between(0.2, 0.8), true), testing::HasSubstr("allow no integer"));
  EXPECT_THAT(message(Between(-0.9, -0.1), true), testing::HasSubstr("allow no integer"));
  EXPECT_THAT(message(Between(1, 2, true, true), true), testing::HasSubstr("allow no integer"));
  EXPECT_THAT(message(Between(1.1e15, std::nullopt), true), testing::HasSubstr("beyond what can be kept"));
  EXPECT_THAT(message(Between(std::nullopt, -1.1e15), false), testing::HasSubstr("beyond what can be kept"));
  EXPECT_THAT(message(Between(NAN, 1), false), testing::HasSubstr("beyond what can be kept"));
  EXPECT_THAT(message(Between(std::nullopt, INFINITY), true), testing::HasSubstr("beyond what can be kept"));
}

TEST(NumberBounds, TheLargestBoundsAreKept) {
  const auto matcher = MatcherOf(Between(-1e15, 1e15), true);
  for (const char* text : {"1000000000000000", "-1000000000000000", "999999999999999", "0"}) EXPECT_TRUE(Matches(*matcher, text)) << text;
  for (const char* text : {"1000000000000001", "-1000000000000001", "9999999999999999"}) EXPECT_FALSE(Matches(*matcher, text)) << text;
}

}  // namespace
}  // namespace baton
