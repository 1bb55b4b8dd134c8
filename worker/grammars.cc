#include "worker/grammars.h"

#include <algorithm>

#include "model/tokenizer.h"

namespace baton {
namespace {

constexpr size_t kMaxKnown = 16;  // each holds up to some tens of MiB of states

}  // namespace

Result<std::shared_ptr<GrammarMatcher>> Grammars::Get(const std::string& gbnf) {
  std::lock_guard lock(mutex_);
  const auto it = std::find_if(known_.begin(), known_.end(), [&gbnf](const auto& entry) { return entry.first == gbnf; });
  if (it != known_.end()) {
    known_.splice(known_.begin(), known_, it);
    return known_.front().second;
  }
  ASSIGN_OR_RETURN(Grammar grammar, Grammar::Parse(gbnf));
  if (tokens_ == nullptr) {
    if (tokenizer_path_.empty()) return InvalidError("this model has no tokenizer, and without one no answer can follow a grammar");
    ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(tokenizer_path_));
    tokens_ = TokenBytes::Of(*tokenizer, vocab_);
  }
  known_.emplace_front(gbnf, std::make_shared<GrammarMatcher>(std::move(grammar), tokens_));
  if (known_.size() > kMaxKnown) known_.pop_back();
  return known_.front().second;
}

}  // namespace baton
