// Characters as Python's str sees them. Thread: pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/jinja/value.h"

namespace baton::jinja {

/// str.isspace, which is also what strip, split and the lexer mean by white space.
bool IsSpace(char32_t c);
/// Letters, digits and "_".
bool IsWordCharacter(char32_t c);
/// Whether repr writes the character as it is.
bool IsPrintable(char32_t c);
/// str.splitlines' line ends.
bool IsLineEnd(char32_t c);
/// Bytes of white space at the end.
size_t TrailingSpace(std::string_view text);

size_t CharacterCount(std::string_view text);
/// Where each character begins, and the end.
std::vector<size_t> CharacterStarts(std::string_view text);
std::u32string Decode(std::string_view text);

/// A string literal's inside with Python's escapes undone; false with what is wrong.
bool Unescape(std::string_view literal, std::string& out, std::string& problem);

enum class Case { kUpper, kLower, kTitle, kSwap, kFold };
/// One character's full mapping, who wrote it kept.
Text MapCase(const Text& text, Case mode);
/// The first character in title case, the rest in lower case.
Text Capitalize(const Text& text);

enum class Side { kLeft, kRight, kBoth };
/// `characters` null: white space.
Text Strip(const Text& text, const Text* characters, Side side);

/// str.isdigit and its relatives: every character is of the kind and there is one.
bool IsAll(std::string_view text, bool (*test)(char32_t));
bool IsAlphabetic(char32_t c);
bool IsDecimal(char32_t c);
bool IsDigit(char32_t c);
bool IsNumeric(char32_t c);
bool IsAlphanumeric(char32_t c);
/// Every cased character is of the case and there is one.
bool IsUpperCase(std::string_view text);
bool IsLowerCase(std::string_view text);
bool IsTitleCase(std::string_view text);

}  // namespace baton::jinja
