#include "coordinator/calibration.h"

#include <algorithm>
#include <cmath>

namespace baton {
namespace {

constexpr size_t kKept = 64, kFewest = 12;
constexpr double kOutlier = 0.3;                   // relative error from which a sample's weight shrinks
constexpr int kRounds = 4;                         // of reweighting
constexpr double kLeast = 0.2, kMost = 5;          // of the factor: beyond it the terms are wrong, not the line

}  // namespace

void Calibration::Add(double predicted_s, double actual_s) {
  if (!IsRequestTime(predicted_s) || !IsRequestTime(actual_s)) return;
  samples_.emplace_back(predicted_s, actual_s);
  if (samples_.size() > kKept) samples_.pop_front();
  if (samples_.size() >= kFewest) Fit();
}

void Calibration::Fit() {
  for (int round = 0; round < kRounds; ++round) {
    double w = 0, x = 0, y = 0, xx = 0, xy = 0;  // weighted sums
    for (const auto& [predicted, actual] : samples_) {
      const double error = std::abs(Apply(predicted) - actual) / actual;
      const double weight = (error > kOutlier ? kOutlier / error : 1) / (actual * actual);
      w += weight;
      x += weight * predicted;
      y += weight * actual;
      xx += weight * predicted * predicted;
      xy += weight * predicted * actual;
    }
    const double spread = w * xx - x * x;
    // Predictions that are all alike determine no slope: then the line goes through 0.
    const bool varied = spread > 1e-3 * w * xx;
    factor_ = std::clamp(varied ? (w * xy - x * y) / spread : xy / xx, kLeast, kMost);
    offset_s_ = (y - factor_ * x) / w;
    if (offset_s_ < 0) {
      offset_s_ = 0;
      factor_ = std::clamp(xy / xx, kLeast, kMost);
    }
  }
}

}  // namespace baton
