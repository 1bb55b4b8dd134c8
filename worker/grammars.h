// The grammars that requests of an engine follow, each read once and shared by all that ask for it.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/status.h"
#include "model/grammar/matcher.h"

namespace baton {

class Grammars {
 public:
  /// `tokens` null: the engine does not know what its tokens write, and refuses requests with a grammar.
  explicit Grammars(std::shared_ptr<const TokenBytes> tokens) : tokens_(std::move(tokens)) {}

  /// The matcher of a GBNF text. It may be used on the engine's thread only. Thread: any. Errors: kInvalid.
  Result<std::shared_ptr<GrammarMatcher>> Get(const std::string& gbnf);

 private:
  const std::shared_ptr<const TokenBytes> tokens_;
  std::mutex mutex_;
  std::list<std::pair<std::string, std::shared_ptr<GrammarMatcher>>> known_;  // the latest used first
};

}  // namespace baton
