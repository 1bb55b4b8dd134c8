#include "worker/constraint.h"

#include <algorithm>
#include <utility>

namespace baton {

Constraint::Constraint(const GenerateRequest& request, const std::vector<TokenId>& eos, std::shared_ptr<GrammarMatcher> grammar)
    : ends_(request.stop_tokens), min_tokens_(request.sampling.min_tokens) {
  if (!request.ignore_eos) ends_.insert(ends_.end(), eos.begin(), eos.end());
  if (grammar != nullptr) grammar_.emplace(std::move(grammar));
}

Result<TokenEvent> Constraint::Sample(Sampler& sampler, std::span<const float> logits, const SamplingParams& params, const SamplingHistory& history) {
  TokenLimits limits;
  limits.ends = ends_;
  limits.may_end = history.generated >= min_tokens_;
  if (grammar_) {
    grammar_->Seek(history.tokens.last(history.generated));
    limits.allowed = &grammar_->mask();
    limits.may_end = limits.may_end && grammar_->accepts();
    if (!grammar_->failure().empty()) return InvalidError("the answer cannot follow its grammar: {}", grammar_->failure());
  }
  return sampler.Sample(logits, params, history, limits);
}

bool Constraint::Ended(const SamplingHistory& history) {
  if (history.generated == 0) return false;
  if (std::find(ends_.begin(), ends_.end(), history.tokens.back()) != ends_.end()) return true;
  if (!grammar_) return false;
  grammar_->Seek(history.tokens.last(history.generated));
  return grammar_->ends();
}

Result<Constraint> MakeConstraint(const GenerateRequest& request, const std::vector<TokenId>& eos, Grammars& grammars) {
  std::shared_ptr<GrammarMatcher> grammar;
  if (!request.sampling.grammar.empty()) {
    ASSIGN_OR_RETURN(grammar, grammars.Get(request.sampling.grammar));
  }
  return Constraint(request, eos, std::move(grammar));
}

}  // namespace baton
