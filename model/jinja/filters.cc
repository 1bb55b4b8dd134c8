// Finding filters; those on numbers and on any value.
#include "model/jinja/filters.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <limits>

#include "model/jinja/format.h"
#include "model/jinja/parameters.h"
#include "model/jinja/unicode.h"

namespace baton::jinja {
namespace {

Value Abs(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "abs", a, {});
  if (!p.ok() || v.IsUndefined()) return run.Fail(v.message());
  if (!v.IsNumber()) return run.Fail(fmt::format("bad operand type for abs(): '{}'", TypeName(v)));
  if (v.kind() == Value::Kind::kFloat) return Value::Float(std::fabs(v.number()), v.from_user());
  return v.integer() < 0 ? run.Binary("*", v, Value::Integer(-1)) : Value::Integer(v.integer(), v.from_user());
}

Value Round(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "round", a, {"precision", "method"});
  if (!p.ok()) return Value();
  const Int precision = std::clamp(p.IntegerOr(0, 0), Int{-400}, Int{400});
  const std::string method = p.TextOr(1, "common").bytes;
  if (method != "common" && method != "ceil" && method != "floor") return run.Fail("method must be common, ceil or floor");
  if (!v.IsNumber()) return run.Fail(v.IsUndefined() ? v.message() : fmt::format("type {} doesn't define __round__ method", TypeName(v)));
  if (method == "common") {
    if (v.IsInteger() && precision >= 0) return Value::Integer(v.integer(), v.from_user());
    const double rounded = RoundTo(v.number(), precision);
    return v.IsInteger() ? Value::Integer(static_cast<Int>(rounded), v.from_user()) : Value::Float(rounded, v.from_user());
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = v.number() * scale;
  return Value::Float((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale, v.from_user());
}

/// Python's float(text); false where it would raise.
bool ParseFloat(const Text& text, double& out) {
  std::string digits = Strip(text, nullptr, Side::kBoth).bytes;
  digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
  std::string lower = digits;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  const std::string word = lower.substr(lower.empty() || (lower[0] != '-' && lower[0] != '+') ? 0 : 1);
  if (word == "inf" || word == "infinity" || word == "nan") {
    out = word == "nan" ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity() * (lower[0] == '-' ? -1 : 1);
    return true;
  }
  if (digits.empty() || digits.size() > 1000 || lower.find_first_not_of("0123456789+-.e") != std::string::npos) return false;
  char* end = nullptr;
  out = std::strtod(digits.c_str(), &end);
  return *end == '\0';
}

/// Python's int(text, base); false where it would raise.
bool ParseInteger(const Text& text, Int base, Int& out) {
  std::string digits = Strip(text, nullptr, Side::kBoth).bytes;
  const bool negative = !digits.empty() && digits[0] == '-';
  if (!digits.empty() && (digits[0] == '-' || digits[0] == '+')) digits.erase(0, 1);
  if (digits.size() > 2 && digits[0] == '0') {
    const char mark = static_cast<char>(digits[1] | 0x20);
    if ((base == 16 && mark == 'x') || (base == 8 && mark == 'o') || (base == 2 && mark == 'b')) digits.erase(0, 2);
  }
  if (digits.empty() || digits.front() == '_' || digits.back() == '_' || digits.find("__") != std::string::npos) return false;
  out = 0;
  for (const char c : digits) {
    if (c == '_') continue;
    const int digit = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? (c | 0x20) - 'a' + 10 : 99;
    if (digit >= base || __builtin_mul_overflow(out, base, &out) || __builtin_add_overflow(out, Int{digit}, &out)) return false;
  }
  if (negative) out = -out;
  return true;
}

Value ToInt(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "int", a, {"default", "base"});
  if (!p.ok()) return Value();
  if (v.IsUndefined()) return run.Fail(v.message());
  const Value fallback = p.Get(0) != nullptr ? *p.Get(0) : Value::Integer(0);
  if (v.IsInteger()) return Value::Integer(v.integer(), v.from_user());
  double number = 0;
  if (v.IsText()) {
    Int whole = 0;
    if (v.text().bytes.size() < 1000 && ParseInteger(v.text(), std::clamp(p.IntegerOr(1, 10), Int{2}, Int{36}), whole)) return Value::Integer(whole, !v.text().user.empty());
    if (!ParseFloat(v.text(), number)) return fallback;
  } else if (v.kind() == Value::Kind::kFloat) {
    number = v.number();
  } else {
    return fallback;
  }
  if (!std::isfinite(number)) return fallback;
  if (std::fabs(number) > 1e37) return run.Fail("an integer is too large");
  return Value::Integer(static_cast<Int>(number), v.from_user() || (v.IsText() && !v.text().user.empty()));
}

Value ToFloat(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "float", a, {"default"});
  if (!p.ok()) return Value();
  if (v.IsUndefined()) return run.Fail(v.message());
  double number = 0;
  if (v.IsNumber()) return Value::Float(v.number(), v.from_user());
  if (v.IsText() && ParseFloat(v.text(), number)) return Value::Float(number, !v.text().user.empty());
  return p.Get(0) != nullptr ? *p.Get(0) : Value::Float(0.0);
}

Value Default(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "default", a, {"default_value", "boolean"});
  if (!p.ok()) return Value();
  const bool replace = v.IsUndefined() || (p.TruthOr(1, false) && !run.Truth(v));
  return !replace ? v : p.Get(0) != nullptr ? *p.Get(0) : Value::String("");
}

/// Attributes only, never items.
Value Attr(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "attr", a, {"name"}, 1);
  if (!p.ok()) return Value();
  const Text name = run.ToText(*p.Get(0));
  const Value found = run.Attribute(v, name.bytes);
  const bool item = v.IsDict() && found.kind() != Value::Kind::kMethod;
  return item ? Value::Undefined(fmt::format("'{}' has no attribute '{}'", TypeForMessage(v), name.bytes.substr(0, 200))) : found;
}

constexpr FilterEntry kFilters[] = {{"abs", Abs}, {"round", Round}, {"int", ToInt}, {"float", ToFloat}, {"default", Default}, {"d", Default}, {"attr", Attr}};

}  // namespace

FilterBody FindNumberFilter(std::string_view name) {
  const auto it = std::find_if(std::begin(kFilters), std::end(kFilters), [&](const FilterEntry& entry) { return entry.name == name; });
  return it == std::end(kFilters) ? nullptr : it->body;
}

FilterBody FindFilter(std::string_view name) {
  if (const FilterBody body = FindTextFilter(name)) return body;
  if (const FilterBody body = FindListFilter(name)) return body;
  return FindNumberFilter(name);
}

}  // namespace baton::jinja
