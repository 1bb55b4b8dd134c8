#include "worker/speculation.h"

#include <cmath>

#include "base/random.h"

namespace baton {
namespace {

std::vector<uint32_t> Share(const StepCost& cost, uint32_t planned, const std::vector<DraftOffer>& offers) {
  std::vector<uint32_t> counts(7, 9);
  ShareRows(cost, planned, offers, counts);
  return counts;
}

TEST(ShareRows, GoldenCases) {
  const StepCost free{1, 0}, dear{0, 1}, third{3, 1};
  const struct {
    std::string name;
    StepCost cost;
    uint32_t planned;
    std::vector<DraftOffer> offers;
    std::vector<uint32_t> want;
  } cases[] = {
      {"nobody runs", third, 0, {}, {}},
      {"nobody guesses", third, 2, {{0, 0.9}, {0, 0.9}}, {0, 0}},
      {"rows that cost nothing are all taken", free, 1, {{8, 0.1}}, {8}},
      {"rows are all that costs: a guess that may fail never pays", dear, 1, {{8, 0.99}}, {0}},
      {"one sequence, sure of itself", third, 1, {{8, 0.95}}, {8}},
      {"one sequence, as likely as not", third, 1, {{8, 0.5}}, {1}},       // 0.5 * 4 > 1, then 0.25 * 5 < 1.5
      {"one sequence, seldom right", third, 1, {{8, 0.24}}, {0}},          // 0.24 * 4 < 1
      {"the better guesser goes first", third, 2, {{8, 0.45}, {8, 0.9}}, {0, 5}},
      {"equal guessers share", third, 2, {{2, 0.9}, {2, 0.9}}, {2, 2}},
      {"many sequences: only sure guesses", third, 16, {{4, 0.8}, {4, 0.9}, {4, 0.99}}, {0, 1, 4}},  // 0.84 and up pay, then more
      {"beside a prefill chunk hardly any", third, 256, {{4, 0.95}, {4, 0.98}}, {0, 0}},
      {"no more than guessed", third, 1, {{1, 0.99}}, {1}},
      {"a rate of zero", free, 1, {{4, 0}}, {0}},
  };
  for (const auto& c : cases) EXPECT_EQ(Share(c.cost, c.planned, c.offers), c.want) << c.name;
}

double Rate(const StepCost& cost, double rows, double yield) { return yield / (cost.fixed_s + rows * cost.row_s); }

/// No row more and no row less would give more tokens a second.
TEST(ShareRows, CannotBeBettered) {
  Random random(11);
  for (int round = 0; round < 3000; ++round) {
    const StepCost cost{random.Uniform() * 10, random.Uniform()};
    const auto planned = static_cast<uint32_t>(1 + random.Below(20));
    std::vector<DraftOffer> offers(1 + random.Below(6));
    for (DraftOffer& o : offers) o = {static_cast<uint32_t>(random.Below(9)), 0.02 + 0.96 * random.Uniform()};
    const auto counts = Share(cost, planned, offers);
    const auto value = [&](const std::vector<uint32_t>& c) {
      double rows = planned, yield = planned;
      for (size_t i = 0; i < c.size(); ++i) {
        rows += c[i];
        for (uint32_t j = 1; j <= c[i]; ++j) yield += std::pow(offers[i].rate, j);
      }
      return Rate(cost, rows, yield);
    };
    const double best = value(counts);
    for (size_t i = 0; i < offers.size(); ++i) {
      ASSERT_LE(counts[i], offers[i].tokens);
      for (const int change : {-1, 1}) {
        auto other = counts;
        if (change < 0 ? other[i] == 0 : other[i] == offers[i].tokens) continue;
        other[i] += change;
        ASSERT_LE(value(other), best * (1 + 1e-9)) << "round " << round << ", offer " << i << " changed by " << change;
      }
    }
  }
}

TEST(StepCostMeter, AssumesUntilItMeasures) {
  StepCostMeter meter;
  EXPECT_GT(meter.cost().fixed_s, meter.cost().row_s) << "at first one sequence tries its guesses";
  EXPECT_GT(meter.cost().row_s, 0);
  meter.Add(3, 0);  // a clock that stands still
  meter.Add(0, 1);
  EXPECT_EQ(meter.cost().fixed_s, StepCostMeter().cost().fixed_s);
}

TEST(StepCostMeter, FindsTheCostOfARow) {
  for (const StepCost truth : {StepCost{3e-3, 1e-3}, StepCost{2e-3, 1e-5}, StepCost{2e-3, 2e-3}}) {
    StepCostMeter meter;
    Random random(1);
    for (int i = 0; i < 200; ++i) {
      const auto rows = static_cast<uint32_t>(1 + random.Below(12));
      meter.Add(rows, (truth.fixed_s + rows * truth.row_s) * (0.95 + 0.1 * random.Uniform()));
    }
    const StepCost found = meter.cost();
    const double scale = truth.fixed_s + truth.row_s;
    EXPECT_NEAR(found.row_s, truth.row_s, 0.1 * scale);
    EXPECT_NEAR(found.fixed_s, truth.fixed_s, 0.3 * scale);
  }
}

TEST(StepCostMeter, FollowsAChange) {
  StepCostMeter meter;
  for (uint32_t i = 0; i < 300; ++i) meter.Add(1 + i % 8, 1e-3);
  EXPECT_NEAR(meter.cost().row_s, 0, 1e-5);
  for (uint32_t i = 0; i < 300; ++i) meter.Add(1 + i % 8, 1e-3 * (1 + i % 8));
  EXPECT_NEAR(meter.cost().row_s, 1e-3, 2.5e-4);
}

TEST(StepCostMeter, OneHiccupDoesNotTurnIt) {
  StepCostMeter meter;
  for (uint32_t i = 0; i < 100; ++i) meter.Add(1 + i % 8, 3e-3 + 1e-3 * (1 + i % 8));
  const double before = meter.cost().row_s;
  meter.Add(8, 10);  // ten seconds: somebody else ran
  EXPECT_LT(meter.cost().row_s, 2.5 * before);
  EXPECT_GE(meter.cost().fixed_s, 0);
}

/// However a busy machine spoils the times, a new sequence alone tries its guesses.
TEST(StepCostMeter, NoTimesForbidTheFirstGuess) {
  Random random(2);
  for (int round = 0; round < 200; ++round) {
    StepCostMeter meter;
    for (int i = 0; i < 60; ++i) {
      const auto rows = static_cast<uint32_t>(1 + random.Below(9));
      meter.Add(rows, random.Uniform() * std::pow(rows, 3));
    }
    ASSERT_GE(meter.cost().fixed_s, meter.cost().row_s * 0.999);
    ASSERT_GE(Share(meter.cost(), 1, {{8, DraftRecord().rate()}})[0], 1u);
  }
}

TEST(StepCostMeter, StaysFiniteWithOneRowCount) {
  StepCostMeter meter;
  for (int i = 0; i < 10000; ++i) meter.Add(4, 2e-3);
  const StepCost cost = meter.cost();
  EXPECT_NEAR(cost.fixed_s + 4 * cost.row_s, 2e-3, 1e-9);
  EXPECT_GT(cost.row_s, 0) << "without any other row count the assumption stands";
}

TEST(DraftRecord, LearnsAndRecovers) {
  DraftRecord good, bad;
  for (int i = 0; i < 20; ++i) {
    good.Add(4, false);
    bad.Add(0, true);
  }
  EXPECT_GT(good.rate(), 0.9);
  EXPECT_LT(bad.rate(), 0.1);
  EXPECT_GT(bad.rate(), 0);
  EXPECT_LT(good.rate(), 1);
  const double low = bad.rate();
  for (int i = 0; i < 100; ++i) bad.Skip();
  EXPECT_GT(bad.rate(), low + 0.2) << "it is tried again";
  for (int i = 0; i < 1000; ++i) {
    bad.Skip();
    good.Skip();
  }
  EXPECT_LE(bad.rate(), DraftRecord().rate() + 1e-9) << "and trusted no more than a new one";
  EXPECT_GT(good.rate(), 0.9);
}

/// A sequence whose guesses always fail costs little: few of its steps check any.
TEST(DraftRecord, HopelessGuessesAreSeldomChecked) {
  DraftRecord record;
  int checked = 0;
  for (int step = 0; step < 1000; ++step) {
    const auto counts = Share({3, 1}, 1, {{8, record.rate()}});
    if (counts[0] == 0) {
      record.Skip();
      continue;
    }
    record.Add(0, true);
    ++checked;
  }
  EXPECT_LT(checked, 120);
  EXPECT_GT(checked, 5);
}

}  // namespace
}  // namespace baton
