// How one value is written by a format specification, for "%" and str.format alike. Thread: one at a time.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "model/jinja/run.h"

namespace baton::jinja {

/// "[[fill]align][sign][#][0][width][grouping][.precision][type]".
struct FormatSpec {
  Text fill{" "};
  char align = 0, sign = 0, type = 0, grouping = 0;  // 0: not given
  bool alternate = false, zero = false;
  Int width = 0, precision = -1;
  Int digits = 0;  // of an integer at least; only "%" has it
};
/// What str.format takes after the colon; nullopt for anything else.
std::optional<FormatSpec> ParseFormatSpec(std::string_view text);
/// The decimal number at `at`, which moves behind it; `fallback` where there is none. Never more than a text may be long.
Int ParseCount(std::string_view text, size_t& at, Int fallback);

/// A number by a specification whose type fits it (0: the number's own).
Text FormatNumber(Run& run, const Value& value, const FormatSpec& spec);
Text FormatText(Run& run, const Text& text, const FormatSpec& spec);
/// The character of this number; fails where there is none.
Text FormatCharacter(Run& run, const Value& value, const FormatSpec& spec);
/// format(value, spec); fails where Python does.
Text FormatValue(Run& run, const Value& value, std::string_view spec);

}  // namespace baton::jinja
