#include "model/jinja/format.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <cstdio>
#include <cstdlib>

#include "model/jinja/format_spec.h"
#include "model/jinja/print.h"
#include "model/jinja/unicode.h"
#include "model/mapped_file.h"
#include "model/tokenizer_utf8.h"

namespace baton::jinja {
namespace {

/// repr(value), or ascii(value).
Text Repr(Run& run, const Value& value, bool ascii) {
  Text shown;
  AppendRepr(run, value, shown);
  if (!ascii) return shown;
  Text out;
  const std::vector<size_t> starts = CharacterStarts(shown.bytes);
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const char32_t c = NextUtf8(std::string_view(shown.bytes).substr(starts[i])).code;
    if (c < 0x80) out.Append(shown, starts[i], 1);
    else out.Append(EscapedCharacter(c), shown.UserAt(starts[i]));
  }
  return out;
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
  out.markup = text.markup;
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

Text Replace(Run& run, const Text& text, const Text& old, const Text& by, Int count) {
  Text out;
  if (!run.ChargeBytes(2 * text.bytes.size())) return out;
  const auto fit = [&](const Text& part) { return text.markup && !part.markup ? EscapeHtml(part) : part; };
  const Text to = fit(by);
  const std::string from = fit(old).bytes;
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
  FormatSpec spec;
  bool width_argument = false, precision_argument = false;  // "*"
};

/// False where the text ends too early.
bool ParsePercent(std::string_view text, size_t& at, PercentField& field) {
  if (at < text.size() && text[at] == '(') {
    const size_t close = text.find(')', at);
    if (close == std::string_view::npos) return false;
    field.name = std::string(text.substr(at + 1, close - at - 1));
    at = close + 1;
  }
  const auto take = [&](char c) { return at < text.size() && text[at] == c && ++at != 0; };
  FormatSpec& spec = field.spec;
  for (; at < text.size() && std::string_view("-+ #0").find(text[at]) != std::string_view::npos; ++at) {
    if (text[at] == '-') spec.align = '<';
    if (text[at] == '0') spec.zero = true;
    if (text[at] == '#') spec.alternate = true;
    if (text[at] == '+' || (text[at] == ' ' && spec.sign == 0)) spec.sign = text[at];
  }
  field.width_argument = take('*');
  if (!field.width_argument) spec.width = ParseCount(text, at, 0);
  if (take('.')) {
    field.precision_argument = take('*');
    if (!field.precision_argument) spec.precision = ParseCount(text, at, 0);
  }
  if (at < text.size() && std::string_view("hlL").find(text[at]) != std::string_view::npos) ++at;
  if (at < text.size()) spec.type = text[at++];
  return spec.type != 0;
}

Text FormatPercentText(Run& run, const Text& format, const Value& value, const FormatSpec& spec) {
  Text shown = spec.type == 's' ? run.ToText(value) : Repr(run, value, spec.type == 'a');
  if (format.markup && !shown.markup) shown = EscapeHtml(shown);
  return FormatText(run, shown, spec);
}

Text FormatPercentField(Run& run, const Text& format, Value value, FormatSpec spec) {
  const char type = spec.type;
  const auto is = [&](std::string_view set) { return set.find(type) != std::string_view::npos; };
  const auto fail = [&](std::string_view message) { return run.Fail(message), Text(); };
  if (is("srac")) {
    spec.fill = Text(" ");
    spec.align = spec.align == '<' ? '<' : '>';
    if (is("sra")) return FormatPercentText(run, format, value, spec);
    if (value.IsText() && CharacterCount(value.text().bytes) == 1) return FormatText(run, value.text(), spec);
    return value.IsInteger() ? FormatCharacter(run, value, spec) : fail("%c requires int or char");
  }
  if (spec.zero && spec.align == 0) spec.fill = Text("0");
  if (is("fFeEgG")) {
    return value.IsNumber() ? FormatNumber(run, value, spec) : fail(fmt::format("must be real number, not {}", TypeName(value)));
  }
  if (!is("diuxXo")) return fail(fmt::format("unsupported format character '{}' in a format string", Printable(std::string_view(&type, 1))));
  if (is("xXo") && !value.IsInteger()) return fail(fmt::format("%{} format: an integer is required, not {}", type, TypeName(value)));
  if (!value.IsNumber()) return fail(fmt::format("%{} format: a real number is required, not {}", type, TypeName(value)));
  if (value.kind() == Value::Kind::kFloat) {
    if (!(std::fabs(value.number()) < 1e37)) return fail("cannot convert a float that is too large or no number to an integer");
    value = Value::Integer(static_cast<Int>(value.number()), value.from_user());
  }
  if (is("iu")) spec.type = 'd';
  spec.digits = std::exchange(spec.precision, -1);
  return FormatNumber(run, value, spec);
}

/// The values of a "%", taken one after the other or by name.
class PercentArguments {
 public:
  PercentArguments(Run& run, const Value& arguments) : run_(run), arguments_(arguments), values_{arguments} {
    if (IsTuple()) values_ = arguments.list().items;
  }
  Value Next() {
    if (next_ < values_.size()) return values_[next_++];
    return run_.Fail("not enough arguments for format string");
  }
  Value Named(const std::string& name) {
    if (!arguments_.IsDict()) return run_.Fail("format requires a mapping");
    if (const Value* value = arguments_.dict().Find(name)) return *value;
    return run_.Fail(fmt::format("a format string names the key '{}' that its mapping lacks", name.substr(0, 100)));
  }
  Int Count(Int most) {
    const Value value = Next();
    if (!value.IsInteger()) return run_.Fail("* wants int"), Int{0};
    return std::clamp(value.integer(), -most, most);
  }
  void CheckAllUsed() const {
    // Python lets whatever can be subscripted go unused, since it may be there for its names.
    const bool sequence = arguments_.IsList() && (arguments_.list().kind == List::Kind::kList || arguments_.list().kind == List::Kind::kRange);
    const bool subscript = arguments_.IsDict() || arguments_.IsUndefined() || sequence;
    if (next_ < values_.size() && !subscript) run_.Fail("not all arguments converted during string formatting");
  }

 private:
  bool IsTuple() const { return arguments_.IsList() && arguments_.list().kind == List::Kind::kTuple; }
  Run& run_;
  const Value& arguments_;
  std::vector<Value> values_;
  size_t next_ = 0;
};

}  // namespace

Text FormatPercent(Run& run, const Text& format, const Value& arguments) {
  PercentArguments values(run, arguments);
  Text out;
  out.markup = format.markup;
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
    PercentField field;
    if (!ParsePercent(text, at, field)) return run.Fail("incomplete format"), out;
    if (field.width_argument) field.spec.width = values.Count(Int{Run::kMaxTextBytes} + 1);
    if (field.spec.width < 0) field.spec.align = '<', field.spec.width = -field.spec.width;
    if (field.precision_argument) field.spec.precision = std::max(values.Count(Int{Run::kMaxTextBytes} + 1), Int{0});
    const Value value = field.name ? values.Named(*field.name) : values.Next();
    if (!run.ok()) return out;
    out.Append(FormatPercentField(run, format, value, std::move(field.spec)));
    if (out.bytes.size() > Run::kMaxTextBytes) run.Fail("the chat template makes a text that is too long");
  }
  values.CheckAllUsed();
  return out;
}

namespace {

/// str.format, and the specifications within it.
class BraceFormatter {
 public:
  BraceFormatter(Run& run, const Arguments& arguments) : run_(run), arguments_(arguments) {}

  Text Format(const Text& format, int depth) {
    Text out;
    out.markup = format.markup;
    const std::string& text = format.bytes;
    for (size_t at = 0; at < text.size() && run_.Charge(1);) {
      const size_t brace = std::min(text.find_first_of("{}", at), text.size());
      out.Append(format, at, brace - at);
      at = brace + 1;
      if (brace >= text.size()) break;
      if (at < text.size() && text[at] == text[brace]) {
        out.Append(format, at++, 1);
        continue;
      }
      if (text[brace] == '}') return run_.Fail("Single '}' encountered in format string"), out;
      const size_t close = Close(text, at);
      if (close == std::string::npos) return run_.Fail("expected '}' before end of string"), out;
      if (depth > 1) return run_.Fail("Max string recursion exceeded"), out;
      out.Append(Field(format, at, close, depth));
      at = close + 1;
      if (out.bytes.size() > Run::kMaxTextBytes) run_.Fail("the chat template makes a text that is too long");
    }
    return out;
  }

 private:
  /// The brace that closes the field at `at`.
  static size_t Close(std::string_view text, size_t at) {
    for (int open = 1; at < text.size(); ++at) {
      if (text[at] == '{') ++open;
      if (text[at] == '}' && --open == 0) return at;
    }
    return std::string_view::npos;
  }

  /// "name[!conversion][:spec]", which fills [begin, end) of the format.
  Text Field(const Text& format, size_t begin, size_t end, int depth) {
    const std::string_view field = std::string_view(format.bytes).substr(begin, end - begin);
    size_t at = 0;
    for (bool bracket = false; at < field.size() && (bracket || (field[at] != ':' && field[at] != '!')); ++at) bracket = field[at] == '[' || (bracket && field[at] != ']');
    Value value = FieldValue(field.substr(0, at));
    if (at < field.size() && field[at] == '!') {
      const char conversion = at + 1 < field.size() ? field[at + 1] : '\0';
      at += 2;
      if (at < field.size() && field[at] != ':') return run_.Fail("expected ':' after conversion specifier"), Text();
      if (conversion == 'r' || conversion == 'a') value = Value::String(Repr(run_, value, conversion == 'a'));
      else if (conversion == 's') value = Value::String(run_.ToText(value));
      else return run_.Fail("a format string has an unknown conversion"), Text();
    }
    Text spec = at < field.size() ? format.Sub(begin + at + 1, end - begin - at - 1) : Text();
    if (spec.bytes.find('{') != std::string::npos) spec = Format(spec, depth + 1);
    if (!run_.ok()) return Text();
    const Text shown = FormatValue(run_, value, spec.bytes);
    return format.markup && !shown.markup ? EscapeHtml(shown) : shown;
  }

  /// A replacement field's name: "", "0", "name.attribute[key]".
  Value FieldValue(std::string_view name) {
    const size_t end = std::min(name.find_first_of(".["), name.size());
    Value value = First(std::string(name.substr(0, end)));
    for (size_t at = end; at < name.size() && run_.Charge(1);) {
      if (name[at] == '.') {
        const size_t stop = std::min(name.find_first_of(".[", at + 1), name.size());
        value = run_.Attribute(value, name.substr(at + 1, stop - at - 1));
        at = stop;
        continue;
      }
      const size_t stop = name[at] == '[' ? name.find(']', at) : std::string_view::npos;
      if (stop == std::string_view::npos) return run_.Fail("expected ']' in a format string");
      const std::string key(name.substr(at + 1, stop - at - 1));
      const bool digits = !key.empty() && key.size() < 10 && key.find_first_not_of("0123456789") == std::string::npos;
      value = run_.Item(value, digits ? Value::Integer(std::atoi(key.c_str())) : Value::String(key));
      at = stop + 1;
    }
    return value;
  }

  Value First(const std::string& name) {
    const bool number = name.empty() || (name.size() < 6 && name.find_first_not_of("0123456789") == std::string::npos);
    if (!number) {
      const auto it = std::find_if(arguments_.named.begin(), arguments_.named.end(), [&](const auto& entry) { return entry.first == name; });
      return it != arguments_.named.end() ? it->second : run_.Fail(fmt::format("format() has no argument '{}'", name.substr(0, 100)));
    }
    (name.empty() ? automatic_ : manual_) = true;
    if (automatic_ && manual_) return run_.Fail("cannot switch between automatic and manual field numbering");
    const size_t position = name.empty() ? next_++ : static_cast<size_t>(std::atoi(name.c_str()));
    if (position >= arguments_.positional.size()) return run_.Fail("Replacement index out of range for positional args tuple");
    return arguments_.positional[position];
  }

  Run& run_;
  const Arguments& arguments_;
  size_t next_ = 0;
  bool automatic_ = false, manual_ = false;
};

}  // namespace

Text FormatBraces(Run& run, const Text& format, const Arguments& arguments) { return BraceFormatter(run, arguments).Format(format, 0); }

}  // namespace baton::jinja
