#include "model/jinja/print.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "model/jinja/objects.h"
#include "model/jinja/unicode.h"
#include "model/tokenizer_utf8.h"

namespace baton::jinja {

std::string EscapedCharacter(char32_t c) {
  const auto code = static_cast<uint32_t>(c);
  return c < 0x100 ? fmt::format("\\x{:02x}", code) : c < 0x10000 ? fmt::format("\\u{:04x}", code) : fmt::format("\\U{:08x}", code);
}

namespace {

void AppendTextRepr(const Text& text, Text& out) {
  const bool has_single = text.bytes.find('\'') != std::string::npos, has_double = text.bytes.find('"') != std::string::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  const bool user = !text.user.empty();
  if (text.markup) out.Append("Markup(");
  out.Append(std::string_view(&quote, 1), user);
  std::string_view rest = text.bytes;
  size_t at = 0;
  while (!rest.empty()) {
    const Utf8Step step = NextUtf8(rest);
    const char32_t c = step.code;
    std::string piece(rest.substr(0, step.length));
    if (c == '\\' || c == static_cast<char32_t>(quote)) piece = std::string("\\") + static_cast<char>(c);
    else if (c == '\n') piece = "\\n";
    else if (c == '\r') piece = "\\r";
    else if (c == '\t') piece = "\\t";
    else if (!IsPrintable(c)) piece = EscapedCharacter(c);
    out.Append(piece, text.UserAt(at));
    rest.remove_prefix(step.length);
    at += step.length;
  }
  out.Append(std::string_view(&quote, 1), user);
  if (text.markup) out.Append(")");
}

void AppendListRepr(Run& run, const List& list, Text& out) {
  using Kind = List::Kind;
  if (list.kind == Kind::kRange) return out.Append(list.range);
  if (list.kind == Kind::kGenerator) return out.Append("<generator object>");
  const bool tuple = list.kind == Kind::kTuple;
  const bool view = list.kind == Kind::kDictKeys || list.kind == Kind::kDictValues || list.kind == Kind::kDictItems;
  if (view) out.Append(list.kind == Kind::kDictKeys ? "dict_keys(" : list.kind == Kind::kDictValues ? "dict_values(" : "dict_items(");
  out.Append(tuple ? "(" : "[", list.from_user);
  for (size_t i = 0; i < list.items.size() && run.ok(); ++i) {
    if (i > 0) out.Append(", ", list.from_user);
    AppendRepr(run, list.items[i], out);
  }
  if (tuple && list.items.size() == 1) out.Append(",");
  out.Append(tuple ? ")" : "]", list.from_user);
  if (view) out.Append(")");
}

void AppendDictRepr(Run& run, const Dict& dict, Text& out) {
  out.Append("{", dict.from_user);
  bool first = true;
  for (const auto& [key, value] : dict.items) {
    if (!run.ok()) return;
    if (!first) out.Append(", ", dict.from_user);
    first = false;
    AppendRepr(run, key, out);
    out.Append(": ", dict.from_user);
    AppendRepr(run, value, out);
  }
  out.Append("}", dict.from_user);
}

void AppendObjectRepr(Run& run, const Object& object, Text& out) {
  const auto* space = dynamic_cast<const Namespace*>(&object);
  if (space == nullptr) return out.Append("<" + std::string(object.type_name()) + ">");
  out.Append("<Namespace {");
  bool first = true;
  for (const auto& [name, value] : space->values()) {
    out.Append((first ? "'" : ", '") + name + "': ");
    first = false;
    AppendRepr(run, value, out);
    if (!run.ok()) return;
  }
  out.Append("}>");
}

}  // namespace

std::string PrintInteger(Int value) { return fmt::format("{}", value); }

std::string PrintFloat(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), std::fabs(value), std::chars_format::scientific);
  const std::string text(buffer, end.ptr);
  const size_t mark = text.find('e');
  const int exponent = std::stoi(text.substr(mark + 1));
  std::string digits = text.substr(0, 1) + (mark > 2 ? text.substr(2, mark - 2) : "");
  const std::string sign = std::signbit(value) ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    const std::string mantissa = digits.size() > 1 ? digits.substr(0, 1) + "." + digits.substr(1) : digits;
    return fmt::format("{}{}e{}{:02}", sign, mantissa, exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

void AppendRepr(Run& run, const Value& value, Text& out) {
  const Run::Nested nested(run);
  const size_t before = out.bytes.size();
  if (before > Run::kMaxTextBytes) run.Fail("a printed value is too long");
  if (!run.Charge(2)) return;
  switch (value.kind()) {
    case Value::Kind::kUndefined: out.Append("Undefined"); break;
    case Value::Kind::kText: AppendTextRepr(value.text(), out); break;
    case Value::Kind::kList: AppendListRepr(run, value.list(), out); return;
    case Value::Kind::kDict: AppendDictRepr(run, value.dict(), out); return;
    case Value::Kind::kObject: AppendObjectRepr(run, *value.object(), out); return;
    default: out.Append(run.ToText(value)); break;
  }
  run.ChargeBytes(out.bytes.size() - before);
}

Text EscapeHtml(const Text& text) {
  Text out;
  out.markup = true;
  for (size_t i = 0; i < text.bytes.size(); ++i) {
    const char c = text.bytes[i];
    const std::string_view entity = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '\'' ? "&#39;" : c == '"' ? "&#34;" : std::string_view(&c, 1);
    out.Append(entity, text.UserAt(i));
  }
  return out;
}

Text Run::ToText(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined: return Text();
    case Value::Kind::kNone: return Text("None");
    case Value::Kind::kBool: return Text(value.boolean() ? "True" : "False", value.from_user());
    case Value::Kind::kInt: return Text(PrintInteger(value.integer()), value.from_user());
    case Value::Kind::kFloat: return Text(PrintFloat(value.number()), value.from_user());
    case Value::Kind::kText: return value.text();
    case Value::Kind::kMethod: return Text("<built-in method " + value.method().name + ">");
    default: break;
  }
  Text out;
  AppendRepr(*this, value, out);
  return out;
}

}  // namespace baton::jinja
