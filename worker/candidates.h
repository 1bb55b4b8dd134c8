// The tokens that are still in the draw: temperature, top_k, top_p, min_p and typical_p in this order (golden README §9), then
// one draw. A full vocabulary is never sorted: bins over the bits of a float find where a sum crosses its bound, and only the
// bin of the crossing is sorted. Every sum runs in one fixed order, so equal input gives equal bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/generation.h"
#include "base/ids.h"

namespace baton {

/// e^x for x <= 0 to within two units in the last place of a float; 0 below -87. The same bits on every machine, unlike libm's.
float ExpNonPositive(float x);

/// The `k` largest values' indices by (value descending, index ascending), in no particular order; all when k is larger.
/// Values are not NaN. `out` is overwritten.
void LargestIndices(std::span<const float> values, size_t k, std::vector<TokenId>& out);

/// Thread: one at a time. Keeps its buffers between calls.
class Candidates {
 public:
  /// Temperatures below this act as it does: the best token takes all.
  static constexpr double kMinTemperature = 1e-6;

  /// Filters `scores` (no NaN, a finite maximum) under `params` with temperature > 0. At least one token stays.
  void Build(std::span<const float> scores, const SamplingParams& params);
  /// The token at fraction `uniform`, in [0, 1), of the candidates' mass in ascending order of ids.
  TokenId Draw(double uniform) const;

  std::span<const TokenId> ids() const { return ids_; }         // ascending
  std::span<const float> weights() const { return weights_; }   // their probabilities up to one factor; the best has 1

 private:
  void Collect(std::span<const float> scores, uint32_t top_k);
  void KeepTopP(double p);
  void KeepTypical(double p);
  template <typename Crosses>
  size_t FindCrossing(std::span<const float> keys, Crosses crosses);
  template <typename Predicate>
  void Keep(Predicate keep);

  std::vector<TokenId> ids_;
  std::vector<float> scaled_;   // (score - best) / temperature
  std::vector<float> weights_;  // e^scaled
  std::vector<TokenId> largest_;
  std::vector<float> surprise_;
  std::vector<double> bin_mass_;
  std::vector<uint32_t> crossing_;
};

}  // namespace baton
