// A template's source cut into tokens, with Jinja's rules for white space: trim_blocks and lstrip_blocks are on, the last
// newline is dropped. Thread: pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace baton::jinja {

struct Token {
  enum class Kind { kText, kBlockBegin, kBlockEnd, kPrintBegin, kPrintEnd, kName, kString, kInteger, kFloat, kOperator, kEnd };
  Kind kind = Kind::kEnd;
  std::string text;  // kString: after escapes
  int line = 1;
};

/// Ends with a kEnd token. Errors: kInvalid with the line.
Result<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace baton::jinja
