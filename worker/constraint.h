// What bounds the tokens of one answer: the grammar it follows, and which tokens may end it. A pure function of the answer's
// tokens, so a moved or guessed-ahead answer is bounded alike. Thread: the engine's.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/generation.h"
#include "model/grammar/matcher.h"
#include "worker/grammars.h"
#include "worker/sampler.h"

namespace baton {

class Constraint {
 public:
  /// `eos` are the model's; `grammar` is null where any text may come.
  Constraint(const GenerateRequest& request, const std::vector<TokenId>& eos, std::shared_ptr<GrammarMatcher> grammar);

  /// The token after `history`, within the limits. Errors: the sampler's; kInvalid where the grammar cannot be followed.
  Result<TokenEvent> Sample(Sampler& sampler, std::span<const float> logits, const SamplingParams& params, const SamplingHistory& history);
  /// The answer is over: its last token ends it, or the grammar has no more.
  bool Ended(const SamplingHistory& history);

 private:
  std::vector<TokenId> ends_;
  const uint32_t min_tokens_;
  std::optional<GrammarCursor> grammar_;
};

/// The constraint of a request. Errors: the grammar's.
Result<Constraint> MakeConstraint(const GenerateRequest& request, const std::vector<TokenId>& eos, Grammars& grammars);

}  // namespace baton
