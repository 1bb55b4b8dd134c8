// From a row of logits to the next token. A pure function of (logits, parameters, history): the draw is UniformAt(seed,
// position), sums run in one fixed order and no libm or standard library algorithm whose result is unspecified takes part in
// a choice, so a moved, preempted or batched request samples the very same tokens.
//
// Order (golden README §9): repetition penalty (each id of prompt and output once), presence and frequency penalties (of the
// generated ids, as OpenAI defines them), logit_bias, no_repeat_ngram, temperature, top_k, top_p, min_p, typical_p. Ties:
// greedy takes the lowest id; top_k and typical_p keep all that equal the last kept; top_p drops higher ids first.
//
// Logprobs are those of the model itself: the log-softmax of the raw logits, before every step above (what OpenAI and vLLM
// report), so they do not depend on the sampling parameters.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/generation.h"
#include "base/ids.h"
#include "base/status.h"

namespace baton {

inline constexpr int32_t kMaxLogprobs = 1024;  // alternatives a token

/// Errors: kInvalid for a value that is not a number or out of range; names the field, the value and what is allowed.
Status CheckSampling(const SamplingParams& params, uint32_t vocab);

/// The tokens a choice looks back on.
struct SamplingHistory {
  std::span<const TokenId> tokens;  // prompt and output; the token to choose stands at position tokens.size()
  size_t generated = 0;             // how many of the last ones are output: presence and frequency penalties count these
};

/// Thread: one at a time. Keeps its buffers between calls and nothing else.
class Sampler {
 public:
  explicit Sampler(uint32_t vocab);

  /// The next token; logprob and top only where params.logprobs >= 0. `params` passed CheckSampling, history's ids are within
  /// the vocabulary, logits has `vocab` values. Errors: kInternal when the logits leave no token to choose (NaN, +inf).
  Result<TokenEvent> Sample(std::span<const float> logits, const SamplingParams& params, const SamplingHistory& history);

  /// The probabilities Sample draws from, zero for what was filtered out. Temperature 0 gives the greedy token 1.
  Result<std::vector<double>> Distribution(std::span<const float> logits, const SamplingParams& params, const SamplingHistory& history);

 private:
  std::span<const float> Penalise(std::span<const float> logits, const SamplingParams& params, const SamplingHistory& history);
  void BanRepeatedNgrams(uint32_t n, std::span<const TokenId> tokens);
  Result<TokenId> Choose(std::span<const float> scores, const SamplingParams& params, uint64_t position);
  Status Filter(std::span<const float> scores, const SamplingParams& params);
  void KeepTopK(std::span<const float> scores, uint32_t k);
  void KeepTopP(double p);
  void KeepTypical(double p);
  template <typename Predicate>
  void Keep(Predicate keep);
  double Total() const;
  void SetLogprobs(std::span<const float> logits, int32_t alternatives, TokenEvent& event);
  /// The `k` largest by (value descending, id ascending), in no particular order; k > 0.
  std::span<const TokenId> Largest(std::span<const float> values, size_t k);

  const uint32_t vocab_;
  std::vector<float> scores_;
  std::vector<uint32_t> seen_;  // by id: the call (or count) that saw it; see Penalise
  std::vector<TokenId> seen_ids_;
  std::vector<TokenId> largest_;
  // What is still in the draw, ascending ids.
  std::vector<TokenId> ids_;
  std::vector<float> scaled_;   // (score - best) / temperature
  std::vector<float> weights_;  // exp of it
  std::vector<uint32_t> order_;
};

}  // namespace baton
