// Reductions over a row of the vocabulary in eight lanes that are joined in one order: they vectorise, and give the same bits
// however they are compiled.
#pragma once

#include <cstddef>
#include <span>

namespace baton {

inline double Sum(std::span<const float> values) {
  double lanes[8] = {};
  size_t i = 0;
  for (; i + 8 <= values.size(); i += 8) {
    for (size_t j = 0; j < 8; ++j) lanes[j] += values[i + j];
  }
  for (size_t j = 0; i < values.size(); ++i, ++j) lanes[j] += values[i];
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

/// The largest value; a NaN is never it unless it comes first. At least one value.
inline float Maximum(std::span<const float> values) {
  float lanes[8];
  for (float& lane : lanes) lane = values[0];
  size_t i = 0;
  for (; i + 8 <= values.size(); i += 8) {
    for (size_t j = 0; j < 8; ++j) lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
  }
  for (size_t j = 0; i < values.size(); ++i, ++j) lanes[j] = values[i] > lanes[j] ? values[i] : lanes[j];
  float best = lanes[0];
  for (const float lane : lanes) best = lane > best ? lane : best;
  return best;
}

}  // namespace baton
