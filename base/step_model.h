// What a step of an engine costs: the seconds that a worker measures and the coordinator predicts with.
#pragma once

#include <cmath>

namespace baton {

/// Seconds of a step as a sum; each factor is 0 or above. All 0: not known yet.
struct StepModel {
  double base_s = 0;   // of any step
  double token_s = 0;  // a new token of a prompt
  double pair_s = 0;   // a new token of a prompt, for each token before it: attention
  double row_s = 0;    // a stream that decodes in the same step

  bool known() const { return token_s > 0; }
  double Seconds(double tokens, double pairs, double rows) const { return base_s + token_s * tokens + pair_s * pairs + row_s * rows; }
  /// Of `tokens` new tokens behind `cached` others, in chunks of `chunk_tokens`, while `rows` streams decode beside.
  double PrefillSeconds(double tokens, double cached, double chunk_tokens, double rows) const {
    return std::ceil(tokens / chunk_tokens) * (base_s + row_s * rows) + token_s * tokens + pair_s * tokens * (cached + tokens / 2);
  }
};

}  // namespace baton
