// The line between what is predicted and what happens.
#include "coordinator/calibration.h"

#include "base/random.h"
#include "tests/support/test_pch.h"

namespace baton {
namespace {

TEST(Calibration, NothingIsChangedUntilEnoughWasSeen) {
  Calibration calibration;
  for (int i = 0; i < 11; ++i) calibration.Add(1, 3);
  EXPECT_DOUBLE_EQ(calibration.Apply(0.7), 0.7);
  calibration.Add(1, 3);
  EXPECT_NEAR(calibration.Apply(1), 3, 1e-6);
}

TEST(Calibration, AnOffsetAndAFactorAreFound) {
  Calibration calibration;
  Random random(1);
  for (int i = 0; i < 64; ++i) {
    const double predicted = 0.01 + random.Uniform();
    calibration.Add(predicted, 0.02 + 1.5 * predicted);
  }
  EXPECT_NEAR(calibration.offset_s(), 0.02, 1e-3);
  EXPECT_NEAR(calibration.factor(), 1.5, 1e-2);
}

TEST(Calibration, WhatIsFarOffCountsLittle) {
  Calibration calibration;
  Random random(2);
  for (int i = 0; i < 64; ++i) {
    const double predicted = 0.05 + random.Uniform();
    calibration.Add(predicted, i % 8 == 0 ? 20 * predicted : predicted * (0.9 + 0.2 * random.Uniform()));
  }
  EXPECT_NEAR(calibration.Apply(0.5), 0.5, 0.1);
}

TEST(Calibration, OnlyTheLastCount) {
  Calibration calibration;
  for (int i = 0; i < 1000; ++i) calibration.Add(0.1 + 0.01 * (i % 50), 5);
  for (int i = 0; i < 64; ++i) calibration.Add(0.1 + 0.01 * i, 0.1 + 0.01 * i);
  EXPECT_NEAR(calibration.Apply(0.4), 0.4, 0.01);
}

TEST(Calibration, EqualPredictionsGiveALineThroughZero) {
  Calibration calibration;
  for (int i = 0; i < 20; ++i) calibration.Add(0.5, 1);
  EXPECT_NEAR(calibration.Apply(0.5), 1, 1e-6);
  EXPECT_NEAR(calibration.Apply(0.25), 0.5, 1e-6);
}

TEST(Calibration, NoSampleMakesItAbsurd) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    Calibration calibration;
    Random random(seed);
    for (int i = 0; i < 100; ++i) {
      const double scale = random.Below(10) == 0 ? 1e6 : 1;
      calibration.Add(random.Uniform() * scale, random.Below(5) == 0 ? 0 : random.Uniform());
      const double at_one = calibration.Apply(1);
      ASSERT_TRUE(at_one >= 0.2 && std::isfinite(at_one)) << seed;
      ASSERT_GE(calibration.Apply(2), calibration.Apply(1)) << "more predicted is never less";
    }
    calibration.Add(std::nan(""), 1);
    calibration.Add(1, std::numeric_limits<double>::infinity());
    ASSERT_TRUE(std::isfinite(calibration.Apply(1)));
  }
}

}  // namespace
}  // namespace baton
