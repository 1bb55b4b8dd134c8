#include "worker/penalties.h"

#include <algorithm>
#include <limits>

namespace baton {
namespace {

/// Keeps a finite score finite: +inf would leave the draw without a sum.
float Narrow(double score) {
  constexpr double kMax = std::numeric_limits<float>::max();
  return static_cast<float>(score < -kMax ? score : std::min(score, kMax));
}

}  // namespace

std::span<const float> Penalties::Apply(std::span<const float> logits, const SamplingParams& p, const SamplingHistory& history) {
  const bool repetition = p.repetition_penalty != 1, counted = p.presence_penalty != 0 || p.frequency_penalty != 0;
  if (!repetition && !counted && p.logit_bias.empty() && p.no_repeat_ngram == 0) return logits;
  scores_.assign(logits.begin(), logits.end());
  if (repetition) Repetition(p.repetition_penalty, history.tokens);
  if (counted) PresenceAndFrequency(p.presence_penalty, p.frequency_penalty, history.tokens.last(history.generated));
  for (const auto& [id, bias] : p.logit_bias) scores_[id] = Narrow(double{scores_[id]} + bias);
  if (p.no_repeat_ngram > 0) BanRepeatedNgrams(p.no_repeat_ngram, history.tokens);
  return scores_;
}

void Penalties::Count(std::span<const TokenId> tokens) {
  for (const TokenId id : counted_) counts_[id] = 0;
  counted_.clear();
  for (const TokenId id : tokens) {
    if (counts_[id]++ == 0) counted_.push_back(id);
  }
}

void Penalties::Repetition(double penalty, std::span<const TokenId> tokens) {
  Count(tokens);
  for (const TokenId id : counted_) {
    const double score = scores_[id];
    scores_[id] = Narrow(score < 0 ? score * penalty : score / penalty);
  }
}

void Penalties::PresenceAndFrequency(double presence, double frequency, std::span<const TokenId> output) {
  Count(output);
  for (const TokenId id : counted_) scores_[id] = Narrow(scores_[id] - presence - frequency * counts_[id]);
}

/// No token may complete a run of `n` tokens that the history already has.
void Penalties::BanRepeatedNgrams(size_t n, std::span<const TokenId> tokens) {
  if (tokens.size() < n) return;
  const auto prefix = tokens.last(n - 1);
  for (size_t i = 0; i + n <= tokens.size(); ++i) {
    const auto run = tokens.subspan(i, n);
    if (std::equal(prefix.begin(), prefix.end(), run.begin())) scores_[run[n - 1]] = -std::numeric_limits<float>::infinity();
  }
}

}  // namespace baton
