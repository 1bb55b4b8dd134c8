#include "worker/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/random.h"
#include "worker/reduce.h"

namespace baton {
namespace {

constexpr size_t kExpBlock = 256;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

Status CheckRange(const char* field, double value, double low, double high) {
  if (value >= low && value <= high) return OkStatus();  // false for NaN
  return InvalidError("{} is {}, must be a number from {} to {}", field, value, low, high);
}

/// The largest value; kInternal when one is NaN or +inf.
Result<float> FiniteMaximum(std::span<const float> logits, uint64_t position) {
  uint32_t bad = 0;
  for (const float x : logits) bad |= !(x < kInfinity);
  if (bad == 0) return Maximum(logits);
  return InternalError("the model's logits for position {} are no numbers; the weights or the KV cache are damaged", position);
}

}  // namespace

Status CheckSampling(const SamplingParams& p, uint32_t vocab) {
  RETURN_IF_ERROR(CheckRange("temperature", p.temperature, 0, 1000));
  RETURN_IF_ERROR(CheckRange("top_p", p.top_p, 0, 1));
  RETURN_IF_ERROR(CheckRange("min_p", p.min_p, 0, 1));
  RETURN_IF_ERROR(CheckRange("typical_p", p.typical_p, 0, 1));
  RETURN_IF_ERROR(CheckRange("repetition_penalty", p.repetition_penalty, 0.001, 1000));
  RETURN_IF_ERROR(CheckRange("presence_penalty", p.presence_penalty, -100, 100));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", p.frequency_penalty, -100, 100));
  RETURN_IF_ERROR(CheckRange("logprobs", p.logprobs, -1, kMaxLogprobs));
  for (const auto& [id, bias] : p.logit_bias) {
    if (id < 0 || static_cast<uint32_t>(id) >= vocab) {
      return InvalidError("logit_bias names token {}, the vocabulary has 0 to {}", id, vocab - 1);
    }
    if (!(std::fabs(bias) <= 1e6f)) return InvalidError("logit_bias of token {} is {}, must be a number from -1e6 to 1e6", id, bias);
  }
  return OkStatus();
}

TokenId ArgMax(std::span<const float> values) {
  return static_cast<TokenId>(std::find(values.begin(), values.end(), Maximum(values)) - values.begin());
}

std::span<const float> Sampler::Limit(std::span<const float> scores, const TokenLimits& limits) {
  if (limits.allowed == nullptr && limits.may_end) return scores;
  limited_.assign(scores.begin(), scores.end());
  for (size_t word = 0; limits.allowed != nullptr && word < limits.allowed->bits.size(); ++word) {
    const uint64_t bits = limits.allowed->bits[word];
    if (bits == ~uint64_t{0}) continue;
    const size_t end = std::min(scores.size(), (word + 1) * 64);
    for (size_t id = word * 64; id < end; ++id) {
      if ((bits >> (id % 64) & 1) == 0) limited_[id] = -kInfinity;
    }
  }
  for (const TokenId id : limits.ends) {
    const auto i = static_cast<size_t>(id);
    if (i < scores.size()) limited_[i] = limits.may_end ? scores[i] : -kInfinity;  // a stop token may be no token at all
  }
  return limited_;
}

Result<TokenEvent> Sampler::Sample(std::span<const float> logits, const SamplingParams& params, const SamplingHistory& history, const TokenLimits& limits) {
  const uint64_t position = history.tokens.size();
  ASSIGN_OR_RETURN(const float best, FiniteMaximum(logits, position));
  const std::span<const float> scores = Limit(penalties_.Apply(logits, params, history), limits);
  TokenEvent event;
  event.token = ArgMax(scores);
  if (scores[event.token] == -kInfinity) {
    return InvalidError("no token is left for position {}: grammar, min_tokens, logit_bias and no_repeat_ngram ban all that the model allows", position);
  }
  if (params.temperature > 0) {
    candidates_.Build(scores, params);
    event.token = candidates_.Draw(UniformAt(params.seed, position));
  }
  if (params.logprobs >= 0) SetLogprobs(logits, best, params.logprobs, event);
  return event;
}

void Sampler::SetLogprobs(std::span<const float> logits, float best, int32_t alternatives, TokenEvent& event) {
  double sum = 0;
  for (size_t i = 0; i < logits.size(); i += kExpBlock) {
    float block[kExpBlock];
    const size_t n = std::min(kExpBlock, logits.size() - i);
    for (size_t j = 0; j < n; ++j) block[j] = ExpNonPositive(logits[i + j] - best);
    sum += Sum({block, n});
  }
  const double log_sum = double{best} + std::log(sum);
  // -inf has no JSON and no use: what the model rules out gets the lowest number.
  const auto logprob = [&](TokenId id) { return static_cast<float>(std::max(logits[id] - log_sum, double{std::numeric_limits<float>::lowest()})); };
  event.logprob = logprob(event.token);
  if (alternatives == 0) return;
  LargestIndices(logits, static_cast<size_t>(alternatives), largest_);
  std::sort(largest_.begin(), largest_.end(), [logits](TokenId a, TokenId b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  event.top.reserve(largest_.size());
  for (const TokenId id : largest_) event.top.push_back({id, logprob(id)});
}

}  // namespace baton
