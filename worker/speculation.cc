#include "worker/speculation.h"

#include <algorithm>

namespace baton {
namespace {

constexpr double kForget = 0.98;          // a step's weight one step later: about the last fifty count
constexpr double kRowsForFree = 3;        // until measured: the fixed part is worth this many rows
constexpr double kPriorSquaredRows = 16;  // the weight of that assumption: as much as steps whose rows vary by 4
constexpr double kOutlier = 4;            // times the expected: somebody else had the processor
constexpr double kRateWeight = 0.15;      // of the newest guess
constexpr double kStartRate = 0.6, kRecover = 0.01;

}  // namespace

void StepCostMeter::Add(uint32_t rows, double seconds) {
  if (seconds <= 0 || rows == 0) return;  // a clock that stands still measures nothing
  if (weight_ > 1) {
    const StepCost expected = cost();
    seconds = std::min(seconds, kOutlier * (expected.fixed_s + rows * expected.row_s));
  }
  for (double* sum : {&weight_, &rows_, &seconds_, &rows_squared_, &product_}) *sum *= kForget;
  const double n = rows;
  weight_ += 1;
  rows_ += n;
  seconds_ += seconds;
  rows_squared_ += n * n;
  product_ += n * seconds;
}

StepCost StepCostMeter::cost() const {
  if (weight_ == 0) return {kRowsForFree, 1};
  const double rows = rows_ / weight_, seconds = seconds_ / weight_;
  const double assumed = seconds / (kRowsForFree + rows);
  const double variance = rows_squared_ - weight_ * rows * rows, covariance = product_ - weight_ * rows * seconds;
  const double slope = (covariance + kPriorSquaredRows * assumed) / (variance + kPriorSquaredRows);
  const double row_s = std::clamp(slope, 0.0, seconds / (rows + 1));  // a step alone is worth a row at least
  return {seconds - rows * row_s, row_s};
}

void DraftRecord::Add(uint32_t accepted, bool failed) {
  for (uint32_t i = 0; i < accepted; ++i) rate_ += kRateWeight * (1 - rate_);
  if (failed) rate_ -= kRateWeight * rate_;
}

void DraftRecord::Skip() {
  if (rate_ < kStartRate) rate_ += kRecover * (kStartRate - rate_);
}

void ShareRows(const StepCost& cost, uint32_t planned, std::span<const DraftOffer> offers, std::vector<uint32_t>& counts) {
  counts.assign(offers.size(), 0);
  std::vector<double> next(offers.size());  // probability that the next row of each offer yields a token
  for (size_t i = 0; i < offers.size(); ++i) next[i] = offers[i].tokens > 0 ? offers[i].rate : 0;
  double rows = planned, yield = planned;
  while (true) {
    const auto best = std::max_element(next.begin(), next.end());
    if (best == next.end() || *best <= 0 || *best * (cost.fixed_s + rows * cost.row_s) <= cost.row_s * yield) return;
    const auto i = static_cast<size_t>(best - next.begin());
    rows += 1;
    yield += *best;
    *best = ++counts[i] < offers[i].tokens ? *best * offers[i].rate : 0;
  }
}

}  // namespace baton
