// How values print: as Python's str and repr write them.
#pragma once

#include <string>

#include "model/jinja/run.h"

namespace baton::jinja {

/// repr(float): the shortest digits that read back, with ".0" or an exponent.
std::string PrintFloat(double value);
std::string PrintInteger(Int value);
/// "\\x1f", "\\u200b" or "\\U0001f600".
std::string EscapedCharacter(char32_t c);
/// repr(value), appended; who wrote each byte is kept.
void AppendRepr(Run& run, const Value& value, Text& out);
/// & < > ' " as entities.
Text EscapeHtml(const Text& text);

}  // namespace baton::jinja
