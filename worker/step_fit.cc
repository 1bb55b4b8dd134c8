#include "worker/step_fit.h"

#include <algorithm>
#include <cmath>

namespace baton {
namespace {

// Features are scaled to be about 1 in a usual step, so that one small ridge suits all.
constexpr double kScale[] = {1, 256, 65536, 8};
constexpr double kRidge = 1e-6;
constexpr double kOutlier = 0.3;  // relative error from which a sample's weight shrinks
constexpr int kRounds = 3;        // of reweighting
// What no step has; beyond it sums of squares would not be numbers.
constexpr double kShortestS = 1e-9, kLongestS = 1e6, kMostOfStep = 1e15;

/// Gauss with pivots, in place; a direction that nothing determines becomes 0.
template <size_t N>
std::array<double, N> SolveLinear(std::array<std::array<double, N>, N> a, std::array<double, N> b) {
  for (size_t column = 0; column < N; ++column) {
    size_t pivot = column;
    for (size_t row = column + 1; row < N; ++row) {
      if (std::abs(a[row][column]) > std::abs(a[pivot][column])) pivot = row;
    }
    std::swap(a[column], a[pivot]);
    std::swap(b[column], b[pivot]);
    if (std::abs(a[column][column]) < 1e-300) continue;
    for (size_t row = column + 1; row < N; ++row) {
      const double factor = a[row][column] / a[column][column];
      for (size_t k = column; k < N; ++k) a[row][k] -= factor * a[column][k];
      b[row] -= factor * b[column];
    }
  }
  std::array<double, N> x{};
  for (size_t row = N; row-- > 0;) {
    double rest = b[row];
    for (size_t k = row + 1; k < N; ++k) rest -= a[row][k] * x[k];
    x[row] = std::abs(a[row][row]) < 1e-300 ? 0 : rest / a[row][row];
  }
  return x;
}

}  // namespace

StepFit::Factors StepFit::FeaturesOf(const StepSample& sample) {
  return {1 / kScale[0], sample.tokens / kScale[1], sample.pairs / kScale[2], sample.rows / kScale[3]};
}

void StepFit::Add(const StepSample& sample) {
  for (const double feature : {sample.tokens, sample.pairs, sample.rows}) {
    if (!(feature >= 0 && feature <= kMostOfStep)) return;
  }
  if (!(sample.seconds >= kShortestS && sample.seconds <= kLongestS)) return;
  auto& kind = sample.tokens > 0 ? prefills_ : decodes_;
  kind.push_back(sample);
  if (kind.size() > kKept) kind.pop_front();
}

bool StepFit::Varied() const {
  if (prefills_.size() < kFewest) return false;
  const auto [least, most] = std::minmax_element(prefills_.begin(), prefills_.end(), [](const auto& a, const auto& b) { return a.tokens < b.tokens; });
  return most->tokens >= 1.5 * least->tokens || !decodes_.empty();
}

/// One weighted fit without negative factors: the most negative one is left out until none is.
StepFit::Factors StepFit::Solve(const Factors& before) const {
  std::array<std::array<double, kFactors>, kFactors> normal{};
  Factors right{};
  const auto count = [&](const StepSample& sample) {
    const Factors x = FeaturesOf(sample);
    double predicted = 0;
    for (size_t i = 0; i < kFactors; ++i) predicted += before[i] * x[i];
    const double error = predicted > 0 ? std::abs(predicted - sample.seconds) / sample.seconds : 0;
    const double weight = (error > kOutlier ? kOutlier / error : 1) / (sample.seconds * sample.seconds);
    for (size_t i = 0; i < kFactors; ++i) {
      for (size_t j = 0; j < kFactors; ++j) normal[i][j] += weight * x[i] * x[j];
      right[i] += weight * x[i] * sample.seconds;
    }
  };
  for (const StepSample& sample : prefills_) count(sample);
  for (const StepSample& sample : decodes_) count(sample);
  double trace = 0;
  for (size_t i = 0; i < kFactors; ++i) trace += normal[i][i];
  for (size_t i = 0; i < kFactors; ++i) normal[i][i] *= 1 + kRidge;  // of its own size: short steps weigh much, and say nothing of long prompts
  for (;;) {
    const Factors x = SolveLinear(normal, right);
    const auto least = std::min_element(x.begin(), x.end());
    if (*least >= 0) return x;
    const auto out = static_cast<size_t>(least - x.begin());
    for (size_t k = 0; k < kFactors; ++k) normal[out][k] = normal[k][out] = 0;
    normal[out][out] = trace;
    right[out] = 0;
  }
}

StepModel StepFit::Fit() const {
  if (!Varied()) return {};
  Factors x{};
  for (int round = 0; round < kRounds; ++round) x = Solve(x);
  return {x[0] / kScale[0], x[1] / kScale[1], x[2] / kScale[2], x[3] / kScale[3]};
}

}  // namespace baton
