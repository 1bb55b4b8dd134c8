#include "model/jinja/unicode.h"

#include <unicode/brkiter.h>
#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>

#include "base/bytes.h"
#include "model/tokenizer_utf8.h"

namespace baton::jinja {
namespace {

UChar32 Code(char32_t c) { return static_cast<UChar32>(c); }
bool IsCased(char32_t c) { return u_isULowercase(Code(c)) || u_isUUppercase(Code(c)) || u_charType(Code(c)) == U_TITLECASE_LETTER; }
bool IsCaseIgnorable(char32_t c) { return u_hasBinaryProperty(Code(c), UCHAR_CASE_IGNORABLE); }

// Greek sigma is written differently at the end of a word.
bool IsFinalSigma(const std::u32string& text, size_t at) {
  size_t before = at, after = at + 1;
  while (before > 0 && IsCaseIgnorable(text[before - 1])) --before;
  while (after < text.size() && IsCaseIgnorable(text[after])) ++after;
  return before > 0 && IsCased(text[before - 1]) && !(after < text.size() && IsCased(text[after]));
}

std::string MapCharacter(const std::u32string& text, size_t at, Case mode) {
  const char32_t c = text[at];
  std::string out;
  if (c < 0x80) {
    const bool upper = mode == Case::kUpper || mode == Case::kTitle;
    out += static_cast<char>(upper && c >= 'a' && c <= 'z' ? c - 32 : !upper && c >= 'A' && c <= 'Z' ? c + 32 : c);
    return out;
  }
  if (mode == Case::kLower && c == 0x3A3) {
    AppendUtf8(IsFinalSigma(text, at) ? 0x3C2 : 0x3C3, out);
    return out;
  }
  icu::UnicodeString one(Code(c));
  switch (mode) {
    case Case::kUpper: one.toUpper(icu::Locale::getRoot()); break;
    case Case::kTitle:
      if (u_totitle(Code(c)) != Code(c)) one = icu::UnicodeString(u_totitle(Code(c)));
      else one.toTitle(nullptr, icu::Locale::getRoot());
      break;
    case Case::kFold: one.foldCase(); break;
    default: one.toLower(icu::Locale::getRoot()); break;
  }
  one.toUTF8String(out);
  return out;
}

}  // namespace

bool IsSpace(char32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}
bool IsWordCharacter(char32_t c) { return c == '_' || IsAlphanumeric(c); }
bool IsLineEnd(char32_t c) { return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029; }

bool IsPrintable(char32_t c) {
  if (c == ' ') return true;
  const auto type = u_charType(Code(c));
  return type != U_CONTROL_CHAR && type != U_FORMAT_CHAR && type != U_SURROGATE && type != U_PRIVATE_USE_CHAR && type != U_UNASSIGNED &&
         type != U_LINE_SEPARATOR && type != U_PARAGRAPH_SEPARATOR && type != U_SPACE_SEPARATOR;
}

size_t TrailingSpace(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t start = end - 1;
    while (start > 0 && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
    if (!IsSpace(NextUtf8(text.substr(start)).code)) break;
    end = start;
  }
  return text.size() - end;
}

size_t CharacterCount(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

std::vector<size_t> CharacterStarts(std::string_view text) {
  std::vector<size_t> starts;
  starts.reserve(text.size() + 1);
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<uint8_t>(text[i]) & 0xC0) != 0x80) starts.push_back(i);
  }
  starts.push_back(text.size());
  return starts;
}

std::u32string Decode(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    out += step.code;
    text.remove_prefix(step.length);
  }
  return out;
}

bool Unescape(std::string_view literal, std::string& out, std::string& problem) {
  constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
  for (size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 >= literal.size()) {
      out += literal[i];
      continue;
    }
    const char c = literal[++i];
    if (c == '\n') continue;
    if (const size_t known = kFrom.find(c); known != std::string_view::npos) {
      out += kTo[known];
    } else if (c >= '0' && c <= '7') {
      uint32_t code = 0;
      size_t digits = 0;
      for (; digits < 3 && i + digits < literal.size() && literal[i + digits] >= '0' && literal[i + digits] <= '7'; ++digits) {
        code = code * 8 + static_cast<uint32_t>(literal[i + digits] - '0');
      }
      i += digits - 1;
      AppendUtf8(code, out);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      uint32_t code = 0;
      for (size_t k = 1; k <= digits; ++k) {
        const int value = i + k < literal.size() ? HexDigit(literal[i + k]) : -1;
        if (value < 0) {
          problem = std::string("a string has a \\") + c + " without its " + std::to_string(digits) + " hexadecimal digits";
          return false;
        }
        code = code * 16 + static_cast<uint32_t>(value);
      }
      if (code > 0x10FFFF) {
        problem = "a string has a character beyond U+10FFFF";
        return false;
      }
      i += digits;
      AppendUtf8(code, out);
    } else if (c == 'N') {
      problem = "a string has a character by its name (\\N), which is not supported; write \\u and its number";
      return false;
    } else {
      out += '\\';
      out += c;
    }
  }
  return true;
}

Text MapCase(const Text& text, Case mode) {
  const std::u32string characters = Decode(text.bytes);
  const std::vector<size_t> starts = CharacterStarts(text.bytes);
  Text out;
  out.markup = text.markup;
  bool previous_cased = false;
  for (size_t i = 0; i < characters.size(); ++i) {
    Case now = mode;
    if (mode == Case::kTitle && previous_cased) now = Case::kLower;
    if (mode == Case::kSwap) now = u_isUUppercase(Code(characters[i])) ? Case::kLower : Case::kUpper;
    previous_cased = IsCased(characters[i]);
    out.Append(MapCharacter(characters, i, now), text.UserAt(starts[i]));
  }
  return out;
}

Text Capitalize(const Text& text) {
  const std::u32string characters = Decode(text.bytes);
  const std::vector<size_t> starts = CharacterStarts(text.bytes);
  Text out;
  out.markup = text.markup;
  for (size_t i = 0; i < characters.size(); ++i) {
    out.Append(MapCharacter(characters, i, i == 0 ? Case::kTitle : Case::kLower), text.UserAt(starts[i]));
  }
  return out;
}

Text Strip(const Text& text, const Text* characters, Side side) {
  const std::u32string all = Decode(text.bytes);
  const std::u32string set = characters == nullptr ? U"" : Decode(characters->bytes);
  const auto drop = [&](char32_t c) { return characters == nullptr ? IsSpace(c) : set.find(c) != std::u32string::npos; };
  const std::vector<size_t> starts = CharacterStarts(text.bytes);
  size_t begin = 0, end = all.size();
  while (side != Side::kRight && begin < end && drop(all[begin])) ++begin;
  while (side != Side::kLeft && end > begin && drop(all[end - 1])) --end;
  return text.Sub(starts[begin], starts[end] - starts[begin]);
}

bool IsAll(std::string_view text, bool (*test)(char32_t)) {
  const std::u32string all = Decode(text);
  return !all.empty() && std::all_of(all.begin(), all.end(), test);
}
bool IsAlphabetic(char32_t c) { return (U_MASK(u_charType(Code(c))) & U_GC_L_MASK) != 0; }
bool IsDecimal(char32_t c) { return u_charType(Code(c)) == U_DECIMAL_DIGIT_NUMBER; }
bool IsDigit(char32_t c) {
  const int type = u_getIntPropertyValue(Code(c), UCHAR_NUMERIC_TYPE);
  return type == U_NT_DECIMAL || type == U_NT_DIGIT;
}
bool IsNumeric(char32_t c) { return u_getIntPropertyValue(Code(c), UCHAR_NUMERIC_TYPE) != U_NT_NONE; }
bool IsAlphanumeric(char32_t c) { return IsAlphabetic(c) || IsNumeric(c); }

bool IsUpperCase(std::string_view text) {
  bool cased = false;
  for (const char32_t c : Decode(text)) {
    if (u_isULowercase(Code(c)) || u_charType(Code(c)) == U_TITLECASE_LETTER) return false;
    cased = cased || u_isUUppercase(Code(c));
  }
  return cased;
}

bool IsLowerCase(std::string_view text) {
  bool cased = false;
  for (const char32_t c : Decode(text)) {
    if (u_isUUppercase(Code(c)) || u_charType(Code(c)) == U_TITLECASE_LETTER) return false;
    cased = cased || u_isULowercase(Code(c));
  }
  return cased;
}

bool IsTitleCase(std::string_view text) {
  bool cased = false, previous = false;
  for (const char32_t c : Decode(text)) {
    const bool upper = u_isUUppercase(Code(c)) || u_charType(Code(c)) == U_TITLECASE_LETTER;
    if (upper ? previous : u_isULowercase(Code(c)) && !previous) return false;
    previous = upper || u_isULowercase(Code(c));
    cased = cased || previous;
  }
  return cased;
}

}  // namespace baton::jinja
