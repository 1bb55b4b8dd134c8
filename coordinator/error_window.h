// The last relative errors of a prediction, and their quantiles: whether the cost model can be believed.
//
// Thread: one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace baton {

class ErrorWindow {
 public:
  /// What is no number, and an `actual` that is not above 0, is ignored.
  void Add(double predicted, double actual) {
    if (!(actual > 0) || !std::isfinite(actual) || !std::isfinite(predicted)) return;
    const double error = std::abs(predicted - actual) / actual;
    if (errors_.size() < kKept) errors_.push_back(error);
    else errors_[next_++ % kKept] = error;
  }
  size_t size() const { return errors_.size(); }
  /// The p-quantile (0 to 1) of the last errors; 0 where there is none.
  double Quantile(double p) const {
    if (errors_.empty()) return 0;
    std::vector<double> sorted = errors_;
    const auto at = sorted.begin() + static_cast<std::ptrdiff_t>(p * static_cast<double>(sorted.size() - 1));
    std::nth_element(sorted.begin(), at, sorted.end());
    return *at;
  }

 private:
  static constexpr size_t kKept = 256;
  std::vector<double> errors_;
  size_t next_ = 0;  // to be replaced, once all places are taken
};

}  // namespace baton
