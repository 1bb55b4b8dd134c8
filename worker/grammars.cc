#include "worker/grammars.h"

#include <algorithm>

namespace baton {
namespace {

constexpr size_t kMaxKnown = 16;  // each holds up to some tens of MiB of states

}  // namespace

Result<std::shared_ptr<GrammarMatcher>> Grammars::Get(const std::string& gbnf) {
  if (tokens_ == nullptr) return InvalidError("this engine has no tokenizer and cannot follow a grammar");
  {
    std::lock_guard lock(mutex_);
    const auto it = std::find_if(known_.begin(), known_.end(), [&gbnf](const auto& entry) { return entry.first == gbnf; });
    if (it != known_.end()) {
      known_.splice(known_.begin(), known_, it);
      return known_.front().second;
    }
  }
  ASSIGN_OR_RETURN(Grammar grammar, Grammar::Parse(gbnf));
  auto matcher = std::make_shared<GrammarMatcher>(std::move(grammar), tokens_);
  std::lock_guard lock(mutex_);
  known_.emplace_front(gbnf, matcher);
  if (known_.size() > kMaxKnown) known_.pop_back();
  return matcher;
}

}  // namespace baton
