// The fit of what an engine's steps cost: exact without noise, near with it, sane whatever it is given.
#include "worker/step_fit.h"

#include "base/random.h"
#include "tests/support/test_pch.h"

namespace baton {
namespace {

const StepModel kTrue{0.004, 6e-5, 2e-8, 5e-4};

StepSample Prefill(const StepModel& cost, double tokens, double cached, double rows) {
  const double pairs = tokens * (cached + tokens / 2);
  return {tokens, pairs, rows, cost.Seconds(tokens, pairs, rows)};
}
StepSample Decode(const StepModel& cost, double rows) { return {0, 0, rows, cost.Seconds(0, 0, rows)}; }

void ExpectNear(const StepModel& got, const StepModel& want, double relative) {
  EXPECT_NEAR(got.base_s, want.base_s, want.base_s * relative);
  EXPECT_NEAR(got.token_s, want.token_s, want.token_s * relative);
  EXPECT_NEAR(got.pair_s, want.pair_s, want.pair_s * relative);
  EXPECT_NEAR(got.row_s, want.row_s, want.row_s * relative);
}

TEST(StepFit, NothingIsSaidOfNothing) {
  StepFit fit;
  EXPECT_FALSE(fit.Fit().known());
  for (int i = 0; i < 50; ++i) fit.Add(Decode(kTrue, i % 8));
  EXPECT_FALSE(fit.Fit().known()) << "decoding says nothing about prompts";
  for (int i = 0; i < 3; ++i) fit.Add(Prefill(kTrue, 100 + 50 * i, 0, 0));
  EXPECT_FALSE(fit.Fit().known()) << "three steps are chance";
  fit.Add({100, 5000, 0, 0});
  fit.Add({100, 5000, 0, -1});
  fit.Add({100, 5000, 0, std::nan("")});
  EXPECT_FALSE(fit.Fit().known()) << "a clock that stands still measures nothing";
}

TEST(StepFit, ExactStepsGiveTheirCost) {
  StepFit fit;
  Random random(1);
  for (int i = 0; i < 60; ++i) {
    fit.Add(Prefill(kTrue, 1 + static_cast<double>(random.Below(256)), static_cast<double>(random.Below(4000)), static_cast<double>(random.Below(16))));
    fit.Add(Decode(kTrue, 1 + static_cast<double>(random.Below(16))));
  }
  ExpectNear(fit.Fit(), kTrue, 0.02);
}

TEST(StepFit, NoiseAndStallsMoveItLittle) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    StepFit fit;
    Random random(seed);
    for (int i = 0; i < 96; ++i) {
      StepSample prefill = Prefill(kTrue, 1 + static_cast<double>(random.Below(256)), static_cast<double>(random.Below(4000)), static_cast<double>(random.Below(16)));
      StepSample decode = Decode(kTrue, 1 + static_cast<double>(random.Below(16)));
      for (StepSample* sample : {&prefill, &decode}) {
        sample->seconds *= 0.9 + 0.2 * random.Uniform();
        if (random.Below(20) == 0) sample->seconds *= 5;  // the machine was busy elsewhere
        fit.Add(*sample);
      }
    }
    const StepModel got = fit.Fit();
    for (const double tokens : {64.0, 256.0, 1024.0}) {
      for (const double cached : {0.0, 2000.0}) {
        const double want = kTrue.PrefillSeconds(tokens, cached, 256, 4);
        EXPECT_NEAR(got.PrefillSeconds(tokens, cached, 256, 4), want, 0.2 * want) << seed << ": " << tokens << " after " << cached;
      }
    }
  }
}

TEST(StepFit, AnHourOfDecodingDoesNotWashOutWhatPrefillCosts) {
  StepFit fit;
  for (int i = 0; i < 40; ++i) fit.Add(Prefill(kTrue, 32 + 5 * i, 20 * i, i % 5));
  for (int i = 0; i < 100'000; ++i) fit.Add(Decode(kTrue, 1 + i % 12));
  ExpectNear(fit.Fit(), kTrue, 0.05);
}

TEST(StepFit, ANewSpeedIsLearned) {
  StepFit fit;
  const StepModel slower{0.008, 12e-5, 4e-8, 1e-3};
  for (const StepModel& cost : {kTrue, slower}) {
    for (int i = 0; i < 100; ++i) {
      fit.Add(Prefill(cost, 32 + i, 30 * (i % 17), i % 5));
      fit.Add(Decode(cost, 1 + i % 12));
    }
  }
  ExpectNear(fit.Fit(), slower, 0.05);
}

/// Whatever happened, no factor is negative or not a number: a route computed with it would be nonsense.
TEST(StepFit, NoSampleMakesItAbsurd) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    StepFit fit;
    Random random(seed);
    const bool constant = random.Below(4) == 0;
    for (int i = 0; i < 40; ++i) {
      const double tokens = constant ? 64 : static_cast<double>(random.Below(300));
      fit.Add({tokens, tokens * static_cast<double>(random.Below(1000)), static_cast<double>(random.Below(64)), random.Uniform() * (random.Below(5) == 0 ? 1000 : 1)});
      const StepModel cost = fit.Fit();
      for (const double factor : {cost.base_s, cost.token_s, cost.pair_s, cost.row_s}) ASSERT_TRUE(factor >= 0 && factor < 1e6) << seed << ", sample " << i;
    }
  }
}

TEST(StepModel, APromptIsComputedInChunks) {
  EXPECT_DOUBLE_EQ(kTrue.PrefillSeconds(0, 100, 256, 4), 0);
  EXPECT_DOUBLE_EQ(kTrue.PrefillSeconds(256, 0, 256, 0), 0.004 + 256 * 6e-5 + 2e-8 * 256 * 128);
  EXPECT_DOUBLE_EQ(kTrue.PrefillSeconds(257, 0, 256, 0) - kTrue.PrefillSeconds(256, 0, 256, 0), 0.004 + 6e-5 + 2e-8 * (257 * 257 - 256.0 * 256) / 2);
  EXPECT_GT(kTrue.PrefillSeconds(256, 4000, 256, 0), kTrue.PrefillSeconds(256, 0, 256, 0)) << "attention over what is cached is not free";
  EXPECT_GT(kTrue.PrefillSeconds(256, 0, 256, 8), kTrue.PrefillSeconds(256, 0, 256, 0)) << "streams decode beside";
}

}  // namespace
}  // namespace baton
