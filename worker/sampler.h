// From a row of logits to the next token. A pure function of (logits, parameters, history): the draw is UniformAt(seed,
// position), so a moved, preempted or batched request samples the very same tokens. Steps in order: penalties.h, then
// candidates.h. Ties: greedy takes the lowest id; top_k and typical_p keep all that equal the last kept; top_p drops higher
// ids first.
//
// Logprobs are those of the model itself: the log-softmax of the raw logits, before every step (what OpenAI and vLLM report),
// so they do not depend on the sampling parameters, nor on limits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/generation.h"
#include "base/ids.h"
#include "base/status.h"
#include "model/grammar/matcher.h"
#include "worker/candidates.h"
#include "worker/penalties.h"

namespace baton {

inline constexpr int32_t kMaxLogprobs = 1024;  // alternatives a token

/// Errors: kInvalid for a value that is not a number or out of range; names the field, the value and what is allowed.
Status CheckSampling(const SamplingParams& params, uint32_t vocab);

/// What a choice is limited to, beside the penalties.
struct TokenLimits {
  const TokenMask* allowed = nullptr;  // null: every token
  std::span<const TokenId> ends;       // tokens that end the answer: allowed as may_end says, whatever `allowed` says
  bool may_end = true;
};

/// The index of the largest value, the lowest of equals. Values are not NaN; at least one.
TokenId ArgMax(std::span<const float> values);

/// Thread: one at a time. Keeps its buffers between calls and nothing else.
class Sampler {
 public:
  explicit Sampler(uint32_t vocab) : penalties_(vocab) {}

  /// The next token; logprob and top only where params.logprobs >= 0. `params` passed CheckSampling, history's ids are within
  /// the vocabulary. Errors: kInternal when the model's logits are no numbers, kInvalid when parameters and limits ban every token.
  Result<TokenEvent> Sample(std::span<const float> logits, const SamplingParams& params, const SamplingHistory& history, const TokenLimits& limits = {});

 private:
  std::span<const float> Limit(std::span<const float> scores, const TokenLimits& limits);
  void SetLogprobs(std::span<const float> logits, float best, int32_t alternatives, TokenEvent& event);

  Penalties penalties_;
  Candidates candidates_;
  std::vector<TokenId> largest_;
  std::vector<float> limited_;
};

}  // namespace baton
