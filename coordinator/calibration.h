// What a prediction's terms leave out: messages, the step that is running, a machine that others use too. A straight line
// through the last predictions and what happened, in relative errors; misfits count less.
//
// Thread: one.
#pragma once

#include <cstddef>
#include <deque>
#include <utility>

namespace baton {

/// What is shorter than a microsecond or longer than 10^6 s, or no number, was not measured; its square may not be a number either.
inline bool IsRequestTime(double seconds) { return seconds >= 1e-6 && seconds <= 1e6; }

class Calibration {
 public:
  /// Values that are no time of a request are ignored.
  void Add(double predicted_s, double actual_s);
  /// The line at `predicted_s`; `predicted_s` itself until enough was seen.
  double Apply(double predicted_s) const { return offset_s_ + factor_ * predicted_s; }
  double offset_s() const { return offset_s_; }
  double factor() const { return factor_; }

 private:
  void Fit();

  std::deque<std::pair<double, double>> samples_;  // predicted, actual; newest last
  double offset_s_ = 0, factor_ = 1;
};

}  // namespace baton
