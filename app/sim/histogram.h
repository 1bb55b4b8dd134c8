// Percentiles of many positive numbers in little memory: buckets of 1 %, so a percentile is right within 0.5 %.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace baton {

class SimHistogram {
 public:
  void Add(double value, uint64_t times = 1) {
    if (times == 0) return;
    counts_[value <= 0 ? kZero : static_cast<int>(std::floor(std::log(value) / kLogStep))] += times;
    count_ += times;
    sum_ += value * static_cast<double>(times);
    largest_ = std::max(largest_, value);
  }
  uint64_t count() const { return count_; }
  double mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }
  double max() const { return largest_; }
  /// (value, share of all that are at most as large), ascending.
  std::vector<std::pair<double, double>> Cumulative() const {
    std::vector<std::pair<double, double>> points;
    uint64_t below = 0;
    for (const auto& [bucket, times] : counts_) {
      below += times;
      points.emplace_back(bucket == kZero ? 0 : std::min(largest_, std::exp((bucket + 0.5) * kLogStep)), static_cast<double>(below) / static_cast<double>(count_));
    }
    return points;
  }
  /// The value below which a share p of all lies; 0 where there are none.
  double Percentile(double p) const {
    uint64_t left = static_cast<uint64_t>(std::ceil(p * static_cast<double>(count_)));
    for (const auto& [bucket, times] : counts_) {
      if (left <= times) return bucket == kZero ? 0 : std::min(largest_, std::exp((bucket + 0.5) * kLogStep));
      left -= times;
    }
    return largest_;
  }

 private:
  static constexpr double kLogStep = 0.00995033;  // ln 1.01
  static constexpr int kZero = -1'000'000;
  std::map<int, uint64_t> counts_;
  uint64_t count_ = 0;
  double sum_ = 0, largest_ = 0;
};

}  // namespace baton
