#include "model/jinja/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "model/jinja/print.h"
#include "model/jinja/unicode.h"
#include "model/tokenizer_utf8.h"

namespace baton::jinja {
namespace {

constexpr Int kMaxPrecision = 300;

/// "[[fill]align][sign][#][0][width][,][.precision][type]", for both ways.
struct Spec {
  Text fill{" "};
  char align = 0, sign = '-', type = 0, grouping = 0;
  bool alternate = false;
  Int width = 0, precision = -1;
};

Int ParseInt(std::string_view text, size_t& at, Int fallback) {
  if (at >= text.size() || text[at] < '0' || text[at] > '9') return fallback;
  Int value = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) value = std::min<Int>(value * 10 + (text[at] - '0'), Run::kMaxTextBytes + Int{1});
  return value;
}

bool ParseSpec(std::string_view text, Spec& spec) {
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  size_t at = 0;
  if (!text.empty()) {
    const size_t first = NextUtf8(text).length;
    if (first < text.size() && is_align(text[first])) {
      spec.fill = Text(text.substr(0, first));
      spec.align = text[first];
      at = first + 1;
    } else if (is_align(text[0])) {
      spec.align = text[0];
      at = 1;
    }
  }
  const auto take = [&](std::string_view set, char& out) {
    if (at < text.size() && set.find(text[at]) != std::string_view::npos) out = text[at++];
  };
  take("+- ", spec.sign);
  char alternate = 0;
  take("#", alternate);
  spec.alternate = alternate != 0;
  if (at < text.size() && text[at] == '0') {
    ++at;
    if (spec.align == 0) {
      spec.fill = Text("0");
      spec.align = '=';
    }
  }
  spec.width = ParseInt(text, at, 0);
  take(",_", spec.grouping);
  if (at < text.size() && text[at] == '.') {
    ++at;
    spec.precision = ParseInt(text, at, -1);
    if (spec.precision < 0) return false;
  }
  take("bcdeEfFgGnosxX%", spec.type);
  return at == text.size();
}

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

std::string Group(const std::string& digits, char grouping) {
  if (grouping == 0) return digits;
  const size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
  std::string out;
  for (size_t i = 0; i < whole; ++i) {
    if (i > 0 && (whole - i) % 3 == 0) out += grouping;
    out += digits[i];
  }
  return out + digits.substr(whole);
}

std::string FloatDigits(double value, const Spec& spec) {
  value = std::fabs(value);
  if (!std::isfinite(value)) return std::isnan(value) ? "nan" : "inf";
  if (spec.type == 0 && spec.precision < 0) return PrintFloat(value);
  const char type = spec.type == 0 || spec.type == 'n' ? 'g' : spec.type == '%' ? 'f' : spec.type;
  const std::string format = std::string("%.*") + type;
  char buffer[1024];
  const int precision = static_cast<int>(std::min(spec.precision < 0 ? Int{6} : spec.precision, kMaxPrecision));
  std::snprintf(buffer, sizeof(buffer), format.c_str(), precision, spec.type == '%' ? value * 100 : value);
  return std::string(buffer) + (spec.type == '%' ? "%" : "");
}

Text FormatNumber(Run& run, const Value& value, const Spec& spec) {
  const bool is_float = value.kind() == Value::Kind::kFloat || std::string_view("eEfFgG%").find(spec.type == 0 ? 'd' : spec.type) != std::string_view::npos;
  std::string sign, prefix, digits;
  bool negative = false;
  if (is_float) {
    const double number = value.number();
    negative = std::signbit(number) && !std::isnan(number);
    digits = Group(FloatDigits(number, spec), spec.grouping);
  } else {
    const Int number = std::max(value.integer(), -Int{1} << 126);  // so that it has a positive twin
    negative = number < 0;
    const bool hex = spec.type == 'x' || spec.type == 'X';
    const uint32_t base = hex ? 16 : spec.type == 'o' ? 8 : spec.type == 'b' ? 2 : 10;
    const std::string plain = PrintInteger(number);
    digits = base == 10 ? Group(plain.substr(negative ? 1 : 0), spec.grouping) : Digits(negative ? -number : number, base, spec.type == 'X');
    if (spec.alternate && base != 10) prefix = std::string("0") + spec.type;
  }
  sign = negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  Text out;
  if (spec.align == '=') {
    const Int used = static_cast<Int>(sign.size() + prefix.size());
    out.Append(sign + prefix, value.from_user());
    out.Append(Pad(run, Text(digits, value.from_user()), spec.width - used, spec.fill, '>'));
    return out;
  }
  return Pad(run, Text(sign + prefix + digits, value.from_user()), spec.width, spec.fill, spec.align == 0 ? '>' : spec.align);
}

Text FormatText(Run& run, const Text& text, const Spec& spec) {
  Text cut = text;
  if (spec.precision >= 0) {
    const std::vector<size_t> starts = CharacterStarts(text.bytes);
    if (spec.precision < static_cast<Int>(starts.size()) - 1) cut = text.Sub(0, starts[static_cast<size_t>(spec.precision)]);
  }
  return Pad(run, cut, spec.width, spec.fill, spec.align == 0 || spec.align == '=' ? '<' : spec.align);
}

/// One value by a spec of str.format.
Text FormatValue(Run& run, const Value& value, std::string_view text) {
  if (text.empty()) return run.ToText(value);
  Spec spec;
  if (!ParseSpec(text, spec)) {
    run.Fail("Invalid format specifier");
    return Text();
  }
  if (value.IsText() && (spec.type == 0 || spec.type == 's')) return FormatText(run, value.text(), spec);
  if (value.IsNumber() && spec.type != 's' && spec.type != 'c') {
    if (value.kind() == Value::Kind::kBool && spec.type == 0) return FormatText(run, run.ToText(value), spec);
    if (value.kind() != Value::Kind::kFloat || std::string_view("bdoxX").find(spec.type == 0 ? 'f' : spec.type) == std::string_view::npos) return FormatNumber(run, value, spec);
  }
  run.Fail(fmt::format("Unknown format code for object of type '{}'", TypeName(value)));
  return Text();
}

/// A replacement field's name: "", "0", "name.attribute[key]".
Value FieldValue(Run& run, std::string_view name, const Arguments& arguments, size_t& automatic) {
  const size_t end = std::min(name.find_first_of(".["), name.size());
  const std::string first(name.substr(0, end));
  Value value;
  size_t position = 0;
  const bool number = first.empty() || (first.size() < 6 && first.find_first_not_of("0123456789") == std::string::npos);
  if (number) {
    position = first.empty() ? automatic++ : static_cast<size_t>(std::atoi(first.c_str()));
    if (position >= arguments.positional.size()) return run.Fail("Replacement index out of range for positional args tuple");
    value = arguments.positional[position];
  } else {
    const auto it = std::find_if(arguments.named.begin(), arguments.named.end(), [&](const auto& entry) { return entry.first == first; });
    if (it == arguments.named.end()) return run.Fail(fmt::format("format() has no argument '{}'", first.substr(0, 100)));
    value = it->second;
  }
  for (size_t at = end; at < name.size() && run.Charge(1);) {
    if (name[at] == '.') {
      const size_t stop = std::min(name.find_first_of(".[", at + 1), name.size());
      value = run.Attribute(value, name.substr(at + 1, stop - at - 1));
      at = stop;
    } else {
      const size_t stop = name.find(']', at);
      if (stop == std::string_view::npos) return run.Fail("expected ']' in a format string");
      const std::string key(name.substr(at + 1, stop - at - 1));
      const bool digits = !key.empty() && key.size() < 10 && key.find_first_not_of("0123456789") == std::string::npos;
      value = run.Item(value, digits ? Value::Integer(std::atoi(key.c_str())) : Value::String(key));
      at = stop + 1;
    }
  }
  return value;
}

}  // namespace

Text Pad(Run& run, const Text& text, Int width, const Text& fill, char align) {
  const Int missing = width - static_cast<Int>(CharacterCount(text.bytes));
  if (missing <= 0) return text;
  if (missing > Int{Run::kMaxTextBytes} || !run.ChargeBytes(static_cast<size_t>(missing) * fill.bytes.size())) {
    run.Fail("a text is filled up to too large a width");
    return Text();
  }
  // str.center puts the odd one on the left only for an odd width.
  const Int left = align == '>' ? missing : align == '<' ? 0 : align == 'c' ? missing / 2 + (missing & width & 1) : missing / 2;
  Text out;
  for (Int i = 0; i < left; ++i) out.Append(fill);
  out.Append(text);
  for (Int i = left; i < missing; ++i) out.Append(fill);
  return out;
}

namespace {

/// An empty text stands before every character and at the end.
Text ReplaceEmpty(Run& run, const Text& text, const Text& to, Int count) {
  Text out;
  const std::vector<size_t> starts = CharacterStarts(text.bytes);
  for (size_t i = 0; i < starts.size(); ++i, --count) {
    if (out.bytes.size() > Run::kMaxTextBytes || !run.ChargeBytes(to.bytes.size())) break;
    if (count != 0) out.Append(to);
    if (i + 1 < starts.size()) out.Append(text, starts[i], starts[i + 1] - starts[i]);
    if (count == 0) ++count;
  }
  return out;
}

}  // namespace

Text Replace(Run& run, const Text& text, std::string_view from, const Text& to, Int count) {
  Text out;
  if (!run.ChargeBytes(2 * text.bytes.size())) return out;
  if (from.empty()) return ReplaceEmpty(run, text, to, count);
  size_t begin = 0;
  for (size_t at = text.bytes.find(from); at != std::string::npos && count != 0; at = text.bytes.find(from, begin), --count) {
    out.Append(text, begin, at - begin);
    out.Append(to);
    begin = at + from.size();
    if (out.bytes.size() > Run::kMaxTextBytes) run.Fail("the chat template makes a text that is too long");
    if (!run.ChargeBytes(to.bytes.size())) return out;
  }
  out.Append(text, begin);
  out.markup = text.markup;
  return out;
}

double RoundTo(double value, Int digits) {
  if (!std::isfinite(value) || digits > 300) return value;
  if (digits < 0) {
    const double scale = std::pow(10.0, static_cast<double>(std::min(-digits, Int{308})));
    return std::nearbyint(value / scale) * scale;
  }
  char buffer[1024];
  std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(digits), value);  // exact, so ties are real ties
  return std::strtod(buffer, nullptr);
}

namespace {

/// "[(name)][flags][width][.precision]type" after the percent sign.
struct PercentField {
  std::optional<std::string> name;
  Spec spec;
  char type = '\0';
};
PercentField ParsePercent(std::string_view text, size_t& at) {
  PercentField field;
  if (at < text.size() && text[at] == '(') {
    const size_t close = std::min(text.find(')', at), text.size() - 1);
    field.name = std::string(text.substr(at + 1, close - at - 1));
    at = close + 1;
  }
  Spec& spec = field.spec;
  for (; at < text.size() && std::string_view("-+ #0").find(text[at]) != std::string_view::npos; ++at) {
    if (text[at] == '-') spec.align = '<';
    if (text[at] == '0' && spec.align == 0) spec.align = '=';
    if (text[at] == '+' || text[at] == ' ') spec.sign = text[at];
  }
  if (spec.align == '=') spec.fill = Text("0");
  spec.width = ParseInt(text, at, 0);
  if (at < text.size() && text[at] == '.') {
    ++at;
    spec.precision = ParseInt(text, at, 0);
  }
  if (at < text.size()) field.type = text[at++];
  return field;
}

Text FormatPercentField(Run& run, Value value, PercentField field) {
  Spec& spec = field.spec;
  if (field.type == 's' || field.type == 'r') {
    Text shown;
    if (field.type == 'r') AppendRepr(run, value, shown);
    else shown = run.ToText(value);
    if (spec.align != '<') spec.align = '>';
    spec.fill = Text(" ");
    return FormatText(run, shown, spec);
  }
  const bool whole = field.type != '\0' && std::string_view("diuxXo").find(field.type) != std::string_view::npos;
  const bool fraction = field.type != '\0' && std::string_view("fFeEgG").find(field.type) != std::string_view::npos;
  if ((!whole && !fraction) || !value.IsNumber()) {
    run.Fail(fmt::format("unsupported format character or value of type '{}' in a format string", TypeName(value)));
    return Text();
  }
  spec.type = field.type == 'i' || field.type == 'u' ? 'd' : field.type;
  if (whole && value.kind() == Value::Kind::kFloat) value = Value::Integer(static_cast<Int>(std::clamp(value.number(), -1e37, 1e37)), value.from_user());
  return FormatNumber(run, value, spec);
}

}  // namespace

Text FormatPercent(Run& run, const Text& format, const Value& arguments) {
  std::vector<Value> values{arguments};
  if (arguments.IsList() && arguments.list().kind == List::Kind::kTuple) values = arguments.list().items;
  size_t next = 0;
  Text out;
  const std::string& text = format.bytes;
  for (size_t at = 0; at < text.size() && run.Charge(1);) {
    const size_t percent = std::min(text.find('%', at), text.size());
    out.Append(format, at, percent - at);
    at = percent + 1;
    if (percent >= text.size()) break;
    if (at < text.size() && text[at] == '%') {
      out.Append(format, at++, 1);
      continue;
    }
    PercentField field = ParsePercent(text, at);
    const Value* value = nullptr;
    if (field.name && arguments.IsDict()) value = arguments.dict().Find(*field.name);
    if (!field.name && next < values.size()) value = &values[next++];
    if (value == nullptr) {
      run.Fail(field.name ? "a format string names a key that its mapping lacks" : "not enough arguments for format string");
      return out;
    }
    out.Append(FormatPercentField(run, *value, std::move(field)));
    if (out.bytes.size() > Run::kMaxTextBytes) run.Fail("the chat template makes a text that is too long");
  }
  // Python lets whatever can be subscripted go unused, since it may be there for its names.
  const bool subscript = arguments.IsDict() || arguments.IsUndefined() ||
                         (arguments.IsList() && (arguments.list().kind == List::Kind::kList || arguments.list().kind == List::Kind::kRange));
  const bool all_used = next >= values.size() || subscript;
  if (!all_used) run.Fail("not all arguments converted during string formatting");
  return out;
}

Text FormatBraces(Run& run, const Text& format, const Arguments& arguments) {
  Text out;
  size_t automatic = 0;
  const std::string& text = format.bytes;
  for (size_t at = 0; at < text.size() && run.Charge(1);) {
    const size_t brace = std::min(text.find_first_of("{}", at), text.size());
    out.Append(format, at, brace - at);
    at = brace + 1;
    if (brace >= text.size()) break;
    if (at < text.size() && text[at] == text[brace]) {
      out.Append(format, at++, 1);
      continue;
    }
    const size_t close = text.find('}', at);
    if (text[brace] == '}' || close == std::string::npos) return run.Fail("a format string has a single brace"), out;
    std::string_view field = std::string_view(text).substr(at, close - at);
    at = close + 1;
    if (field.find('{') != std::string_view::npos) return run.Fail("nested fields of a format string are not supported"), out;
    const size_t colon = std::min(field.find(':'), field.size());
    std::string_view name = field.substr(0, colon);
    const size_t bang = std::min(name.find('!'), name.size());
    const std::string_view conversion = name.substr(bang);
    name = name.substr(0, bang);
    Value value = FieldValue(run, name, arguments, automatic);
    if (conversion == "!r") {
      Text shown;
      AppendRepr(run, value, shown);
      value = Value::String(std::move(shown));
    } else if (conversion == "!s") {
      value = Value::String(run.ToText(value));
    } else if (!conversion.empty()) {
      return run.Fail("a format string has an unknown conversion"), out;
    }
    out.Append(FormatValue(run, value, colon < field.size() ? field.substr(colon + 1) : std::string_view()));
    if (out.bytes.size() > Run::kMaxTextBytes) run.Fail("the chat template makes a text that is too long");
  }
  return out;
}

}  // namespace baton::jinja
