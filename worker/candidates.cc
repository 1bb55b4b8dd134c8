#include "worker/candidates.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "worker/reduce.h"

namespace baton {
namespace {

constexpr size_t kSumBlock = 256;  // of Draw: whole blocks are skipped by their sums
constexpr uint32_t kBinShift = 20;  // sign, exponent and three bits of the mantissa: 2048 bins of positive floats
constexpr size_t kBins = 1u << (31 - kBinShift);

uint32_t BinOf(float non_negative) { return std::bit_cast<uint32_t>(non_negative) >> kBinShift; }

}  // namespace

// Cephes' expf: e^x = 2^n e^r with n the integer nearest to x / ln 2, r in two parts so that it is exact, and a polynomial.
float ExpNonPositive(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const auto n = static_cast<int32_t>(clamped * 1.44269504088896341f - 0.5f);
  const auto fn = static_cast<float>(n);
  const float r = (clamped - fn * 0.693359375f) + fn * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * (r * r) + r) + 1.0f;
  const float scaled = p * std::bit_cast<float>((n + 127) << 23);
  return x < -87.0f ? 0.0f : scaled;
}

void LargestIndices(std::span<const float> values, size_t k, std::vector<TokenId>& out) {
  const auto better = [values](TokenId a, TokenId b) { return values[a] != values[b] ? values[a] > values[b] : a < b; };
  k = std::min(k, values.size());
  const size_t room = std::min(values.size(), 2 * k + 256);
  out.clear();
  float bar = -std::numeric_limits<float>::infinity();
  bool full = false;  // `out` has k values of at least `bar` from lower indices: an equal one cannot enter
  for (size_t i = 0; i < values.size(); ++i) {
    if (full && values[i] <= bar) continue;
    out.push_back(static_cast<TokenId>(i));
    if (out.size() < room) continue;
    std::nth_element(out.begin(), out.begin() + static_cast<ptrdiff_t>(k) - 1, out.end(), better);
    out.resize(k);
    bar = values[out.back()];
    full = true;
  }
  if (out.size() <= k) return;
  std::nth_element(out.begin(), out.begin() + static_cast<ptrdiff_t>(k) - 1, out.end(), better);
  out.resize(k);
}

void Candidates::Build(std::span<const float> scores, const SamplingParams& params) {
  Collect(scores, params.top_k);
  const float best = Maximum(scores);
  const auto factor = static_cast<float>(1.0 / std::max(params.temperature, kMinTemperature));
  scaled_.resize(ids_.size());
  weights_.resize(ids_.size());
  for (size_t i = 0; i < ids_.size(); ++i) scaled_[i] = std::max((scores[ids_[i]] - best) * factor, std::numeric_limits<float>::lowest());
  for (size_t i = 0; i < ids_.size(); ++i) weights_[i] = ExpNonPositive(scaled_[i]);
  if (params.top_p < 1) KeepTopP(params.top_p);
  if (params.min_p > 0) Keep([&](size_t i) { return weights_[i] >= params.min_p; });
  if (params.typical_p < 1) KeepTypical(params.typical_p);
}

void Candidates::Collect(std::span<const float> scores, uint32_t top_k) {
  float bar = -std::numeric_limits<float>::infinity();
  if (top_k > 0 && top_k < scores.size()) {
    LargestIndices(scores, top_k, largest_);
    bar = scores[largest_[0]];
    for (const TokenId id : largest_) bar = std::min(bar, scores[id]);
  }
  ids_.resize(scores.size());
  size_t count = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    ids_[count] = static_cast<TokenId>(i);
    count += scores[i] >= bar && scores[i] > -std::numeric_limits<float>::infinity();
  }
  ids_.resize(count);
}

template <typename Predicate>
void Candidates::Keep(Predicate keep) {
  size_t count = 0;
  for (size_t i = 0; i < ids_.size(); ++i) {
    const bool kept = keep(i);
    ids_[count] = ids_[i];
    scaled_[count] = scaled_[i];
    weights_[count] = weights_[i];
    count += kept;
  }
  ids_.resize(count);
  scaled_.resize(count);
  weights_.resize(count);
}

/// Walks the candidates by (key ascending, id descending), adding up their weights: the first whose sum crosses, or the last.
template <typename Crosses>
size_t Candidates::FindCrossing(std::span<const float> keys, Crosses crosses) {
  bin_mass_.assign(kBins, 0);
  for (size_t i = 0; i < keys.size(); ++i) bin_mass_[BinOf(keys[i])] += weights_[i];
  double below = 0;
  size_t bin = 0;
  while (bin + 1 < kBins && !crosses(below + bin_mass_[bin])) below += bin_mass_[bin++];
  crossing_.clear();
  for (size_t i = keys.size(); i > 0; --i) {
    if (BinOf(keys[i - 1]) == bin) crossing_.push_back(static_cast<uint32_t>(i - 1));
  }
  if (crossing_.empty()) {  // no sum crosses: the last of all
    size_t last = 0;
    for (size_t i = 1; i < keys.size(); ++i) {
      if (keys[i] > keys[last]) last = i;
    }
    return last;
  }
  std::sort(crossing_.begin(), crossing_.end(), [keys](uint32_t a, uint32_t b) { return keys[a] != keys[b] ? keys[a] < keys[b] : a > b; });
  for (const uint32_t i : crossing_) {
    below += weights_[i];
    if (crosses(below)) return i;
  }
  return crossing_.back();
}

/// From the least probable on, drops while the mass dropped is at most 1 - p; the best stays.
void Candidates::KeepTopP(double p) {
  const double limit = (1 - p) * Sum(weights_);
  const size_t first = FindCrossing(weights_, [limit](double mass) { return mass > limit; });
  const float weight = weights_[first];
  const TokenId id = ids_[first];
  Keep([&](size_t i) { return weights_[i] > weight || (weights_[i] == weight && ids_[i] <= id); });
}

/// Keeps the tokens whose surprise is nearest to the entropy, until their mass reaches p, and all as near as the last of them
/// (Meister et al., "Locally typical sampling"; the order and the ties of transformers).
void Candidates::KeepTypical(double p) {
  const double total = Sum(weights_), log_total = std::log(total);
  double entropy = 0;
  for (size_t i = 0; i < ids_.size(); ++i) entropy -= weights_[i] / total * (scaled_[i] - log_total);
  surprise_.resize(ids_.size());
  for (size_t i = 0; i < ids_.size(); ++i) {
    surprise_[i] = static_cast<float>(std::min(std::fabs(log_total - scaled_[i] - entropy), double{std::numeric_limits<float>::max()}));
  }
  const double mass = p * total;
  const float bar = surprise_[FindCrossing(surprise_, [mass](double sum) { return sum >= mass; })];
  Keep([&](size_t i) { return surprise_[i] <= bar; });
}

TokenId Candidates::Draw(double uniform) const {
  const std::span<const float> weights = weights_;
  double total = 0;
  for (size_t i = 0; i < weights.size(); i += kSumBlock) total += Sum(weights.subspan(i, std::min(kSumBlock, weights.size() - i)));
  const double target = uniform * total;
  double below = 0;
  size_t last = 0;  // with a weight; rounding may leave the target unreached by a hair
  for (size_t i = 0; i < weights.size(); i += kSumBlock) {
    const size_t end = std::min(i + kSumBlock, weights.size());
    const double block = Sum(weights.subspan(i, end - i));
    if (below + block <= target) {
      below += block;
      continue;
    }
    for (size_t j = i; j < end; ++j) {
      if (weights[j] <= 0) continue;
      last = j;
      below += weights[j];
      if (below > target) return ids_[j];
    }
    return ids_[last];
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0) last = i;
  }
  return ids_[last];
}

}  // namespace baton
