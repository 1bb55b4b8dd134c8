// Texts against grammars, and texts out of them, over a small vocabulary.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/random.h"
#include "model/grammar/grammar_text.h"
#include "model/grammar/matcher.h"

namespace baton {

/// Token id b writes byte b; from 256 on come `words`; the last token writes nothing.
inline std::shared_ptr<const TokenBytes> ByteVocabulary(const std::vector<std::string>& words = {}) {
  std::vector<std::string> bytes;
  for (int b = 0; b < 256; ++b) bytes.emplace_back(1, static_cast<char>(b));
  bytes.insert(bytes.end(), words.begin(), words.end());
  bytes.emplace_back();
  return std::make_shared<const TokenBytes>(std::move(bytes));
}

inline std::shared_ptr<GrammarMatcher> NewMatcher(std::string_view gbnf, std::shared_ptr<const TokenBytes> tokens = ByteVocabulary()) {
  auto grammar = Grammar::Parse(gbnf);
  EXPECT_TRUE(grammar.ok()) << grammar.status().ToString() << "\n" << gbnf;
  if (!grammar.ok()) return nullptr;
  return std::make_shared<GrammarMatcher>(*std::move(grammar), std::move(tokens));
}

/// The whole text is in the language.
inline bool Matches(GrammarMatcher& matcher, std::string_view text) { return matcher.Accepts(matcher.Next(matcher.start(), text)); }
inline bool Matches(std::string_view gbnf, std::string_view text) {
  const auto matcher = NewMatcher(gbnf);
  return matcher != nullptr && Matches(*matcher, text);
}

/// A text of the language, each token drawn from those the mask allows; stops at the first place it may once `enough` tokens
/// are written, and gives up after `most`.
inline std::string RandomText(GrammarMatcher& matcher, Random& random, size_t enough, size_t most = 4000) {
  std::string text;
  GrammarMatcher::State state = matcher.start();
  for (size_t n = 0; n < most; ++n) {
    if (matcher.Ends(state) || (n >= enough && matcher.Accepts(state))) return text;
    const TokenMask& mask = matcher.Mask(state);
    if (mask.count == 0) return "no token is allowed after: " + text;
    uint64_t pick = random.Below(mask.count);
    TokenId chosen = -1;
    for (size_t id = 0; id < matcher.tokens().vocab() && chosen < 0; ++id) {
      if (mask.Has(static_cast<TokenId>(id)) && pick-- == 0) chosen = static_cast<TokenId>(id);
    }
    text += matcher.tokens().of(chosen);
    state = matcher.Next(state, matcher.tokens().of(chosen));
    EXPECT_NE(state, GrammarMatcher::kDead) << text;
  }
  return text;
}

}  // namespace baton
