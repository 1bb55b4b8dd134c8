// UTF-8 as the tokenizers need it: stepping with Unicode's maximal-subpart rule (Unicode 15, table 3-7), so that a bad
// byte sequence becomes the same U+FFFD characters everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace baton {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

struct Utf8Step {
  char32_t code = 0xFFFD;
  uint32_t length = 1;      // bytes consumed; for an invalid sequence its maximal subpart, at least 1
  bool valid = false;
  bool incomplete = false;  // the text ends inside a sequence that more bytes could make valid
};
/// The first character of `text`, which must not be empty.
Utf8Step NextUtf8(std::string_view text);
void AppendUtf8(char32_t code, std::string& out);
/// The text with every maximal invalid subpart replaced by U+FFFD.
std::string SanitizeUtf8(std::string_view text);
bool IsValidUtf8(std::string_view text);
/// Bytes at the end of `text` that are the beginning of a character whose rest may still come: 0 to 3.
size_t IncompleteUtf8Tail(std::string_view text);

}  // namespace baton
