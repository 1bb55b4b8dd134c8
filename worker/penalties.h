// The steps of sampling that change logits before the temperature, in this order (golden README §9 with OpenAI's steps in
// it): repetition penalty, presence and frequency penalties, logit_bias, no_repeat_ngram.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/generation.h"
#include "base/ids.h"

namespace baton {

/// The tokens a choice looks back on.
struct SamplingHistory {
  std::span<const TokenId> tokens;  // prompt and output; the token to choose stands at position tokens.size()
  size_t generated = 0;             // how many of the last ones are output: presence and frequency penalties count these
};

/// Thread: one at a time. Keeps its buffers between calls and nothing else.
class Penalties {
 public:
  explicit Penalties(uint32_t vocab) : counts_(vocab, 0) {}
  /// The changed scores, valid until the next call; `logits` itself where no step is on. Ids of the history and of logit_bias
  /// are within the vocabulary.
  std::span<const float> Apply(std::span<const float> logits, const SamplingParams& params, const SamplingHistory& history);

 private:
  void Count(std::span<const TokenId> tokens);
  void Repetition(double penalty, std::span<const TokenId> tokens);
  void PresenceAndFrequency(double presence, double frequency, std::span<const TokenId> output);
  void BanRepeatedNgrams(size_t n, std::span<const TokenId> tokens);

  std::vector<float> scores_;
  std::vector<uint32_t> counts_;    // by id; zero but for counted_
  std::vector<TokenId> counted_;    // ids with a count, in order of first appearance
};

}  // namespace baton
