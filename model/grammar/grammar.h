// A context-free grammar over bytes, read from GBNF text (llama.cpp's notation): what an answer must look like, for structured
// output. Every other form (JSON schema, regular expression, list of choices) is turned into this text first, so one notation
// travels on the wire and one matcher (matcher.h) decides.
//
//   root ::= "{" ws item ("," ws item)* "}"      rules; the text starts at "root", or at the only rule
//   item ::= [a-z_] [^"\n]{0,20} | .             classes of characters, "." any; * + ? {m} {m,} {m,n}; ( ); | ; # comment
//
// Left recursion is refused (a ::= a "x"): write it the other way round.
#pragma once

#include <bitset>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace baton {

inline constexpr size_t kMaxGrammarBytes = 1 << 20;     // of the text
inline constexpr size_t kMaxGrammarSymbols = 1 << 19;   // once repetitions are written out

struct Grammar {
  enum class Kind : uint8_t {
    kEnd,    // of an alternative
    kBytes,  // one byte out of sets[index]
    kRule,   // rules[index]
  };
  struct Symbol {
    Kind kind = Kind::kEnd;
    uint32_t index = 0;
  };

  /// Errors: kInvalid with line and column, what is wrong there and what to do.
  static Result<Grammar> Parse(std::string_view text);

  std::vector<std::bitset<256>> sets;
  std::vector<Symbol> symbols;               // all alternatives one after the other, each closed by kEnd
  std::vector<std::vector<uint32_t>> rules;  // where each alternative of a rule starts in `symbols`
  uint32_t root = 0;
};

}  // namespace baton
