#include "model/jinja/format_spec.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "model/jinja/format.h"
#include "model/jinja/print.h"
#include "model/jinja/unicode.h"
#include "model/tokenizer_utf8.h"

namespace baton::jinja {
namespace {

constexpr Int kMaxPrecision = 300;

bool OneOf(char c, std::string_view set) { return c != 0 && set.find(c) != std::string_view::npos; }

std::string Digits(Int value, uint32_t base, bool upper) {
  std::string out;
  do {
    const auto digit = static_cast<uint32_t>(value % base);
    out += static_cast<char>(digit < 10 ? '0' + digit : (upper ? 'A' : 'a') + digit - 10);
    value /= base;
  } while (value > 0);
  std::reverse(out.begin(), out.end());
  return out;
}

std::string Group(const std::string& whole, char grouping, size_t every) {
  std::string out;
  for (size_t i = 0; i < whole.size(); ++i) {
    if (i > 0 && (whole.size() - i) % every == 0) out += grouping;
    out += whole[i];
  }
  return out;
}

/// `digits` with its whole part grouped and, where zeros fill up to `width`, those too.
std::string Grouped(Run& run, const std::string& digits, const FormatSpec& spec, size_t every, Int width) {
  const size_t end = every == 4 ? digits.size() : std::min(digits.find_first_not_of("0123456789"), digits.size());
  std::string whole = digits.substr(0, end);
  const std::string rest = digits.substr(end);
  if (whole.empty()) return digits;
  if (width > static_cast<Int>(digits.size()) && run.ChargeBytes(static_cast<size_t>(std::min(width, Int{Run::kMaxTextBytes + 1})))) {
    const Int room = width - static_cast<Int>(rest.size());
    const Int whole_groups = room / static_cast<Int>(every + 1), left = room % static_cast<Int>(every + 1);
    const Int wanted = whole_groups * static_cast<Int>(every) + std::max(left, Int{1});  // never begins with the separator
    if (wanted > static_cast<Int>(whole.size())) whole.insert(0, static_cast<size_t>(wanted) - whole.size(), '0');
  }
  return Group(whole, spec.grouping, every) + rest;
}

std::string Printed(const char* format, Int precision, double value) {
  char buffer[1024];
  std::snprintf(buffer, sizeof(buffer), format, static_cast<int>(precision), value);
  return buffer;
}

/// Without a type: as "g", but never without a digit behind the point, and with an exponent one digit earlier.
std::string GeneralDigits(double value, Int precision) {
  precision = std::max(precision, Int{1});
  std::string scientific = Printed("%.*e", precision - 1, value);
  const size_t e = scientific.find('e');
  const Int point = std::atoi(scientific.c_str() + e + 1) + 1;  // digits before it
  const auto strip = [](std::string text) {
    if (text.find('.') == std::string::npos) return text;
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return text;
  };
  if (point <= -4 || point > precision - 1) return strip(scientific.substr(0, e)) + scientific.substr(e);
  std::string fixed = strip(Printed("%.*f", precision - point, value));
  return fixed.find('.') == std::string::npos ? fixed + ".0" : fixed;
}

std::string FloatDigits(double value, const FormatSpec& spec) {
  value = std::fabs(value);
  const bool upper = OneOf(spec.type, "EFG");
  const std::string unit = spec.type == '%' ? "%" : "";
  if (!std::isfinite(value)) return (std::isnan(value) ? (upper ? "NAN" : "nan") : (upper ? "INF" : "inf")) + unit;
  const Int precision = std::min(spec.precision, kMaxPrecision);
  if (spec.type == 0) return precision < 0 ? PrintFloat(value) : GeneralDigits(value, precision);
  const char type = spec.type == 'n' ? 'g' : spec.type == '%' ? 'f' : spec.type;
  const std::string format = std::string(spec.alternate ? "%#.*" : "%.*") + type;
  return Printed(format.c_str(), precision < 0 ? Int{6} : precision, spec.type == '%' ? value * 100 : value) + unit;
}

/// What str.format refuses for an integer.
bool CheckInteger(Run& run, const FormatSpec& spec) {
  if (spec.precision >= 0) run.Fail("Precision not allowed in integer format specifier");
  else if (spec.type == 'c' && spec.sign != 0) run.Fail("Sign not allowed with integer format specifier 'c'");
  else if (spec.grouping != 0 && (spec.type == 'c' || spec.type == 'n' || (spec.grouping == ',' && OneOf(spec.type, "bBoxX")))) {
    run.Fail(fmt::format("Cannot specify '{}' with '{}'.", spec.grouping, spec.type));
  }
  return run.ok();
}

bool CheckText(Run& run, const FormatSpec& spec) {
  if (spec.sign != 0) run.Fail("Sign not allowed in string format specifier");
  else if (spec.alternate) run.Fail("Alternate form (#) not allowed in string format specifier");
  else if (spec.align == '=') run.Fail("'=' alignment not allowed in string format specifier");
  else if (spec.grouping != 0) run.Fail(fmt::format("Cannot specify '{}' with 's'.", spec.grouping));
  return run.ok();
}

}  // namespace

Int ParseCount(std::string_view text, size_t& at, Int fallback) {
  if (at >= text.size() || text[at] < '0' || text[at] > '9') return fallback;
  Int value = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) value = std::min<Int>(value * 10 + (text[at] - '0'), Run::kMaxTextBytes + Int{1});
  return value;
}

std::optional<FormatSpec> ParseFormatSpec(std::string_view text) {
  FormatSpec spec;
  size_t at = 0;
  const size_t first = text.empty() ? 0 : NextUtf8(text).length;
  bool filled = false;
  if (first < text.size() && OneOf(text[first], "<>^=")) {
    filled = true;
    spec.fill = Text(text.substr(0, first));
    spec.align = text[first];
    at = first + 1;
  } else if (!text.empty() && OneOf(text[0], "<>^=")) {
    spec.align = text[at++];
  }
  const auto take = [&](std::string_view set, char& out) {
    if (at < text.size() && OneOf(text[at], set)) out = text[at++];
  };
  take("+- ", spec.sign);
  char alternate = 0, zero = 0;
  take("#", alternate);
  take("0", zero);
  spec.alternate = alternate != 0;
  spec.zero = zero != 0;
  if (spec.zero && !filled) spec.fill = Text("0");
  spec.width = ParseCount(text, at, 0);
  take(",_", spec.grouping);
  if (at < text.size() && text[at] == '.') {
    spec.precision = ParseCount(text, ++at, -1);
    if (spec.precision < 0) return std::nullopt;
  }
  take("bcdeEfFgGnosxX%", spec.type);
  return at == text.size() ? std::optional(spec) : std::nullopt;
}

Text FormatNumber(Run& run, const Value& value, const FormatSpec& spec) {
  std::string prefix, digits;
  bool negative = false;
  size_t every = 3;
  if (value.kind() == Value::Kind::kFloat || OneOf(spec.type, "eEfFgG%")) {
    const double number = value.number();
    negative = std::signbit(number) && !std::isnan(number);
    digits = FloatDigits(number, spec);
  } else {
    const Int number = std::max(value.integer(), -Int{1} << 126);  // so that it has a positive twin
    negative = number < 0;
    const uint32_t base = OneOf(spec.type, "xX") ? 16 : spec.type == 'o' ? 8 : spec.type == 'b' ? 2 : 10;
    if (base != 10) every = 4;
    digits = base == 10 ? PrintInteger(number).substr(negative ? 1 : 0) : Digits(negative ? -number : number, base, spec.type == 'X');
    digits = Pad(run, Text(digits), spec.digits, Text("0"), '>').bytes;
    if (spec.alternate && base != 10) prefix = std::string("0") + spec.type;
  }
  const char align = spec.align != 0 ? spec.align : spec.zero ? '=' : '>';
  const std::string sign = negative ? "-" : spec.sign == 0 || spec.sign == '-' ? "" : std::string(1, spec.sign);
  const Int room = spec.width - static_cast<Int>(sign.size() + prefix.size());
  const bool user = value.from_user();
  if (spec.grouping != 0) digits = Grouped(run, digits, spec, every, align == '=' && spec.fill.bytes == "0" ? room : 0);
  if (align != '=') return Pad(run, Text(sign + prefix + digits, user), spec.width, spec.fill, align);
  Text out(sign + prefix, user);
  out.Append(Pad(run, Text(digits, user), room, spec.fill, '>'));
  return out;
}

Text FormatText(Run& run, const Text& text, const FormatSpec& spec) {
  Text cut = text;
  if (spec.precision >= 0) {
    const std::vector<size_t> starts = CharacterStarts(text.bytes);
    if (spec.precision < static_cast<Int>(starts.size()) - 1) cut = text.Sub(0, starts[static_cast<size_t>(spec.precision)]);
  }
  return Pad(run, cut, spec.width, spec.fill, spec.align == 0 ? '<' : spec.align);
}

Text FormatCharacter(Run& run, const Value& value, const FormatSpec& spec) {
  const Int code = value.integer();
  if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return run.Fail("%c arg not in range(0x110000)"), Text();
  std::string character;
  AppendUtf8(static_cast<char32_t>(code), character);
  return Pad(run, Text(character, value.from_user()), spec.width, spec.fill, spec.align == 0 || spec.align == '=' ? '>' : spec.align);
}

Text FormatValue(Run& run, const Value& value, std::string_view text) {
  if (text.empty()) return run.ToText(value);
  const auto spec = ParseFormatSpec(text);
  const auto unknown = [&] { return run.Fail(fmt::format("Unknown format code '{}' for object of type '{}'", spec->type, TypeName(value))), Text(); };
  if (!value.IsText() && !value.IsNumber()) return run.Fail(fmt::format("unsupported format string passed to {}.__format__", TypeName(value))), Text();
  if (!spec) return run.Fail("Invalid format specifier"), Text();
  if (value.IsText()) {
    if (spec->type != 0 && spec->type != 's') return unknown();
    return CheckText(run, *spec) ? FormatText(run, value.text(), *spec) : Text();
  }
  if (value.kind() == Value::Kind::kFloat || OneOf(spec->type, "eEfFgG%")) return OneOf(spec->type, "bcdosxX") ? unknown() : FormatNumber(run, value, *spec);
  if (spec->type == 's') return unknown();
  if (!CheckInteger(run, *spec)) return Text();
  return spec->type == 'c' ? FormatCharacter(run, value, *spec) : FormatNumber(run, value, *spec);
}

}  // namespace baton::jinja
