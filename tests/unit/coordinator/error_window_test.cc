#include "coordinator/error_window.h"

#include "base/random.h"
#include "tests/support/test_pch.h"

namespace baton {
namespace {

TEST(ErrorWindow, Quantiles) {
  ErrorWindow window;
  EXPECT_EQ(window.Quantile(0.5), 0);
  window.Add(1.5, 1);
  EXPECT_DOUBLE_EQ(window.Quantile(0), 0.5);
  EXPECT_DOUBLE_EQ(window.Quantile(1), 0.5);
  window.Add(2, 1);
  window.Add(0, 1);  // errors 0.5, 1, 1
  EXPECT_DOUBLE_EQ(window.Quantile(0.5), 1);
  EXPECT_DOUBLE_EQ(window.Quantile(0), 0.5);
}

TEST(ErrorWindow, WhatDidNotHappenIsNoError) {
  ErrorWindow window;
  window.Add(1, 0);
  window.Add(1, -1);
  window.Add(1, std::nan(""));
  window.Add(std::nan(""), 1);
  window.Add(std::numeric_limits<double>::infinity(), 1);
  EXPECT_EQ(window.size(), 0u);
}

TEST(ErrorWindow, OnlyTheLastCount) {
  ErrorWindow window;
  for (int i = 0; i < 1000; ++i) window.Add(100, 1);
  for (int i = 0; i < 256; ++i) window.Add(1.1, 1);
  EXPECT_EQ(window.size(), 256u);
  EXPECT_NEAR(window.Quantile(1), 0.1, 1e-9);
}

TEST(ErrorWindow, AgreesWithSorting) {
  Random random(1);
  ErrorWindow window;
  std::vector<double> errors;
  for (int i = 0; i < 200; ++i) {
    const double error = random.Uniform();
    window.Add(1 + error, 1);
    errors.push_back(error);
    std::vector<double> sorted = errors;
    std::sort(sorted.begin(), sorted.end());
    for (const double p : {0.0, 0.5, 0.9, 1.0}) {
      EXPECT_NEAR(window.Quantile(p), sorted[static_cast<size_t>(p * static_cast<double>(sorted.size() - 1))], 1e-9);
    }
  }
}

}  // namespace
}  // namespace baton
