// Learns what an engine's steps cost from those that ran: a least-squares fit over the last steps of each kind (with prompt
// tokens, without), so that an hour of decoding does not wash out what prefill costs. Errors count relative to the step's
// length, and steps that a busy machine made far too long count less.
//
// Thread: one.
#pragma once

#include <array>
#include <cstdint>
#include <deque>

#include "base/step_model.h"

namespace baton {

struct StepSample {
  double tokens = 0, pairs = 0, rows = 0;  // as StepModel names them
  double seconds = 0;
};

class StepFit {
 public:
  /// What no step can be (no number, below 0, no time) is ignored.
  void Add(const StepSample& sample);
  /// All 0 until steps of at least two different prompt lengths were seen.
  StepModel Fit() const;

 private:
  static constexpr size_t kFactors = 4, kKept = 96, kFewest = 6;
  using Factors = std::array<double, kFactors>;
  static Factors FeaturesOf(const StepSample& sample);
  Factors Solve(const Factors& before) const;
  bool Varied() const;

  std::deque<StepSample> prefills_, decodes_;  // newest last, at most kKept of each
};

}  // namespace baton
