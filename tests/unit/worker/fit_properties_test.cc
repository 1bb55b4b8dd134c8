// What the engine learns of itself: step costs and guesses. No sample makes a factor something else than a number, and what is learned
// moves the right way.
#include <cmath>
#include <limits>

#include "base/random.h"
#include "worker/speculation.h"
#include "worker/step_fit.h"

namespace baton {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();

StepSample Step(const StepModel& model, double tokens, double cached, double rows, double noise = 1) {
  const double pairs = tokens * (cached + tokens / 2);
  return {tokens, pairs, rows, model.Seconds(tokens, pairs, rows) * noise};
}

class FitProperties : public ::testing::TestWithParam<uint64_t> {
 protected:
  StepModel RandomModel() { return {1e-3 * random_.Uniform(), 1e-4 * (1 + 9 * random_.Uniform()), 1e-7 * random_.Uniform(), 1e-3 * random_.Uniform()}; }
  StepSample RandomStep(const StepModel& model, double noise = 1) {
    const bool decodes = random_.Below(2) != 0;
    const auto rows = static_cast<double>(random_.Below(9) + (decodes ? 1 : 0));
    if (decodes) return Step(model, 0, 0, rows, noise);
    return Step(model, static_cast<double>(1 + random_.Below(256)), static_cast<double>(random_.Below(4096)), rows, noise);
  }
  Random random_{GetParam()};
};

TEST_P(FitProperties, ConvergesToTheTruthFromAnyStart) {
  for (int round = 0; round < 25; ++round) {
    StepFit fit;
    for (const int phase : {0, 1}) {  // the second time the machine has become another
      const StepModel truth = RandomModel();
      for (int i = 0; i < 300; ++i) fit.Add(RandomStep(truth));
      const StepModel found = fit.Fit();
      ASSERT_TRUE(found.known());
      for (int i = 0; i < 40; ++i) {
        const StepSample step = RandomStep(truth);
        ASSERT_NEAR(found.Seconds(step.tokens, step.pairs, step.rows), step.seconds, 0.1 * step.seconds + 1e-6) << round << " phase " << phase;
      }
    }
  }
}

TEST_P(FitProperties, HostileSamplesLeaveEveryFactorANumber) {
  const double odd[] = {kNan, kInf, -kInf, -1.0, 0.0, -0.0, 1e308, 1e-310, -1e308};
  for (int round = 0; round < 25; ++round) {
    const StepModel truth = RandomModel();
    StepFit fit;
    for (int i = 0; i < 500; ++i) {
      fit.Add(RandomStep(truth));
      StepSample bad = RandomStep(truth);
      double* fields[] = {&bad.tokens, &bad.pairs, &bad.rows, &bad.seconds};
      const size_t field = random_.Below(4);
      *fields[field] = odd[random_.Below(std::size(odd))];
      if (field < 3 && *fields[field] >= 0 && *fields[field] < 1) continue;  // a step without tokens or rows is a step
      fit.Add(bad);
      const StepModel found = fit.Fit();
      for (const double factor : {found.base_s, found.token_s, found.pair_s, found.row_s}) ASSERT_TRUE(std::isfinite(factor) && factor >= 0) << round << " " << i;
    }
  }
}

TEST_P(FitProperties, ALongerPromptNeverCostsLess) {
  for (int round = 0; round < 50; ++round) {
    StepFit fit;
    const StepModel truth = RandomModel();
    for (int i = 0; i < 100; ++i) fit.Add(RandomStep(truth, 0.5 + random_.Uniform()));
    const StepModel found = fit.Fit();
    double last = 0;
    for (double tokens = 1; tokens < 3000; tokens += 37) {
      const double seconds = found.PrefillSeconds(tokens, 100, 256, 3);
      ASSERT_GE(seconds, last);
      last = seconds;
    }
    ASSERT_GE(found.PrefillSeconds(500, 100, 256, 4), found.PrefillSeconds(500, 100, 256, 3)) << "nor one beside more streams";
    ASSERT_GE(found.PrefillSeconds(500, 200, 256, 3), found.PrefillSeconds(500, 100, 256, 3)) << "nor one behind more tokens";
  }
}

/// Of guesses: what is asked never exceeds what is offered, a better rate or a cheaper row never gets fewer, and where a row costs
/// nothing all that may come true is checked.
TEST_P(FitProperties, GuessesAreSharedByWhatTheyYield) {
  std::vector<uint32_t> counts, more;
  for (int round = 0; round < 400; ++round) {
    const StepCost cost{0.001 + 0.02 * random_.Uniform(), 0.005 * random_.Uniform()};
    std::vector<DraftOffer> offers;
    for (uint64_t i = 1 + random_.Below(6); i > 0; --i) offers.push_back({static_cast<uint32_t>(random_.Below(9)), 0.02 + 0.96 * random_.Uniform()});
    const auto planned = static_cast<uint32_t>(offers.size() + random_.Below(20));
    ShareRows(cost, planned, offers, counts);
    ASSERT_EQ(counts.size(), offers.size());
    for (size_t i = 0; i < offers.size(); ++i) {
      ASSERT_LE(counts[i], offers[i].tokens);
      for (size_t j = 0; j < offers.size(); ++j) {  // the next guess of a worse offer is not taken before the better one's
        if (counts[j] > 0 && counts[i] < offers[i].tokens) {
          ASSERT_GE(std::pow(offers[j].rate, counts[j]) + 1e-12, std::pow(offers[i].rate, counts[i] + 1.0)) << i << " " << j;
        }
      }
    }
    StepCost cheaper = cost;
    cheaper.row_s /= 2;
    ShareRows(cheaper, planned, offers, more);
    for (size_t i = 0; i < offers.size(); ++i) ASSERT_GE(more[i], counts[i]) << "cheaper rows, fewer guesses";
    ShareRows({0.01, 0}, planned, offers, more);
    for (size_t i = 0; i < offers.size(); ++i) ASSERT_EQ(more[i], offers[i].tokens) << "a row that costs nothing is always worth it";
  }
}

TEST(DraftRecordProperties, TheRateFollowsWhatCameTrueAndStaysInside) {
  for (const double truth : {0.1, 0.5, 0.9}) {
    Random random(static_cast<uint64_t>(truth * 100));
    DraftRecord record;
    double sum = 0;
    int counted = 0;
    for (int i = 0; i < 4000; ++i) {
      uint32_t accepted = 0;
      while (accepted < 4 && random.Uniform() < truth) ++accepted;
      record.Add(accepted, accepted < 4);
      ASSERT_TRUE(record.rate() > 0 && record.rate() < 1);
      if (i >= 500) sum += record.rate(), ++counted;
    }
    EXPECT_NEAR(sum / counted, truth, 0.12);
  }
  DraftRecord extreme;
  for (int i = 0; i < 10000; ++i) extreme.Add(64, false);
  EXPECT_LT(extreme.rate(), 1);
  for (int i = 0; i < 10000; ++i) extreme.Add(0, true);
  EXPECT_GT(extreme.rate(), 0);
  for (int i = 0; i < 100000; ++i) extreme.Skip();
  EXPECT_TRUE(extreme.rate() > 0 && extreme.rate() < 1);
}

INSTANTIATE_TEST_SUITE_P(Seeds, FitProperties, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace baton
