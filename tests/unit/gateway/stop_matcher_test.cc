#include "gateway/stop_matcher.h"

#include "base/random.h"

namespace baton {
namespace {

struct Outcome {
  std::string text;
  bool matched;
};

/// Runs the text in pieces that end at the given places.
Outcome Match(const std::vector<std::string>& stops, const std::string& text, const std::vector<size_t>& cuts, bool include = false) {
  StopMatcher matcher(stops, include);
  std::string out;
  size_t at = 0;
  for (const size_t cut : cuts) {
    out += matcher.Push(text.substr(at, cut - at));
    at = cut;
  }
  out += matcher.Push(text.substr(at));
  const bool matched = matcher.matched();
  out += matcher.Finish();
  return {out, matched};
}

TEST(StopMatcher, WithoutStopsHoldsNothing) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Push("abc"), "abc");
  EXPECT_EQ(matcher.Finish(), "");
  EXPECT_FALSE(matcher.matched());
}

TEST(StopMatcher, CutsExactlyBeforeTheStop) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.Push("abSTOPcd"), "ab");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.Push("more"), "");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcher, HoldsBackWhatMayBecomeAStop) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.Push("aS"), "a");
  EXPECT_EQ(matcher.Push("T"), "");
  EXPECT_EQ(matcher.Push("x"), "STx");
  EXPECT_EQ(matcher.Push("STO"), "");
  EXPECT_EQ(matcher.Finish(), "STO");
}

TEST(StopMatcher, KeepsTheStopWhenAsked) {
  StopMatcher matcher({"STOP"}, true);
  EXPECT_EQ(matcher.Push("aST"), "a");
  EXPECT_EQ(matcher.Push("OPb"), "STOP");
}

TEST(StopMatcher, FallsBackWithinItsOwnPrefix) {  // a naive restart would miss these
  EXPECT_EQ(Match({"aab"}, "aaab", {1, 2, 3}).text, "a");
  EXPECT_EQ(Match({"abcabd"}, "abcabcabd", {3, 7}).text, "abc");
}

TEST(StopMatcher, EarliestCompleteWinsAndTheLongestOfThose) {
  EXPECT_EQ(Match({"bcdefg", "cd"}, "abcdefg", {}).text, "ab");
  EXPECT_EQ(Match({"cd", "bcd"}, "abcd", {}).text, "a");
  EXPECT_EQ(Match({"cd", "bcd"}, "abcd", {}, true).text, "abcd");
}

TEST(StopMatcher, CharactersOfSeveralBytes) {
  EXPECT_EQ(Match({"é!"}, "caféé!x", {4, 5, 6}).text, "café");
}

TEST(StopMatcher, TheOutcomeDoesNotDependOnTheCuts) {
  Random random(1);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int i = 0; i < 12; ++i) text += static_cast<char>('a' + random.Below(2));
    std::vector<std::string> stops;
    for (uint64_t i = 0; i < 1 + random.Below(3); ++i) {
      std::string stop;
      for (uint64_t j = 0; j < 1 + random.Below(5); ++j) stop += static_cast<char>('a' + random.Below(2));
      stops.push_back(stop);
    }
    // The definition, written plainly: the first end at which some stop is complete, the longest of those.
    std::string wanted = text;
    bool matched = false;
    for (size_t end = 1; end <= text.size() && !matched; ++end) {
      size_t longest = 0;
      for (const auto& stop : stops) {
        if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0) longest = std::max(longest, stop.size());
      }
      if (longest > 0) {
        wanted = text.substr(0, end - longest);
        matched = true;
      }
    }
    std::vector<size_t> cuts;
    for (size_t i = 1; i < text.size(); ++i) {
      if (random.Below(2) == 0) cuts.push_back(i);
    }
    const Outcome got = Match(stops, text, cuts);
    ASSERT_EQ(got.text, wanted) << text << " round " << round;
    ASSERT_EQ(got.matched, matched);
  }
}

}  // namespace
}  // namespace baton
