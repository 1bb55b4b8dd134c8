// The grammars that requests of an engine follow, each read once and shared by all that ask for it.
#pragma once

#include <cstdint>
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
  /// The tokenizer is read when the first grammar comes. An empty path refuses grammars.
  Grammars(std::string tokenizer_path, uint32_t vocab) : tokenizer_path_(std::move(tokenizer_path)), vocab_(vocab) {}

  /// The matcher of a GBNF text. It may be used on the engine's thread only. Thread: any. Errors: kInvalid; the tokenizer's.
  Result<std::shared_ptr<GrammarMatcher>> Get(const std::string& gbnf);

 private:
  const std::string tokenizer_path_;
  const uint32_t vocab_;
  std::mutex mutex_;
  std::shared_ptr<const TokenBytes> tokens_;
  std::list<std::pair<std::string, std::shared_ptr<GrammarMatcher>>> known_;  // the latest used first
};

}  // namespace baton
