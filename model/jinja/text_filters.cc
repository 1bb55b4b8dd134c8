// Filters that make text.
#include <algorithm>
#include <iterator>

#include "model/jinja/filters.h"
#include "model/jinja/format.h"
#include "model/jinja/json.h"
#include "model/jinja/methods.h"
#include "model/jinja/parameters.h"
#include "model/jinja/print.h"
#include "model/jinja/unicode.h"
#include "model/tokenizer_utf8.h"

namespace baton::jinja {
namespace {

/// The method of str with the same name, on the value as text.
template <Text (*kMake)(const Text&)>
Value Simple(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "filter", a, {});
  const Text text = run.ToText(v);
  return p.ok() && run.ChargeBytes(2 * text.bytes.size()) ? run.MakeText(kMake(text)) : Value();
}
Text Upper(const Text& text) { return MapCase(text, Case::kUpper); }
Text Lower(const Text& text) { return MapCase(text, Case::kLower); }

/// Every run of "-", "(", "{", "[", "<" or white space begins a new word.
Text Title(const Text& text) {
  const std::vector<size_t> starts = CharacterStarts(text.bytes);
  const std::u32string all = Decode(text.bytes);
  Text out;
  for (size_t i = 0; i < all.size();) {
    size_t end = i;
    const auto separates = [&](char32_t c) { return IsSpace(c) || std::u32string_view(U"-({[<").find(c) != std::u32string_view::npos; };
    while (end < all.size() && !separates(all[end])) ++end;
    if (end > i) {
      out.Append(MapCase(text.Sub(starts[i], starts[i + 1] - starts[i]), Case::kUpper));
      out.Append(MapCase(text.Sub(starts[i + 1], starts[end] - starts[i + 1]), Case::kLower));
    }
    const size_t word_end = end;
    while (end < all.size() && separates(all[end])) ++end;
    out.Append(text, starts[word_end], starts[end] - starts[word_end]);
    i = end;
  }
  return out;
}

Value Trim(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "trim", a, {"chars"});
  const Text text = run.ToText(v);
  if (!p.ok() || !run.ChargeBytes(2 * text.bytes.size())) return Value();
  if (p.Get(0) == nullptr || p.Get(0)->IsNone()) return run.MakeText(Strip(text, nullptr, Side::kBoth));
  const Text characters = p.TextOr(0, "");
  return run.MakeText(Strip(text, &characters, Side::kBoth));
}

Value ReplaceFilter(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "replace", a, {"old", "new", "count"}, 2);
  if (!p.ok()) return Value();
  const Int count = p.Get(2) == nullptr || p.Get(2)->IsNone() ? -1 : p.IntegerOr(2, -1);
  return run.MakeText(Replace(run, run.ToText(v), run.ToText(*p.Get(0)), run.ToText(*p.Get(1)), count));
}

Value Center(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "center", a, {"width"});
  return p.ok() ? run.MakeText(Pad(run, run.ToText(v), p.IntegerOr(0, 80), Text(" "), 'c')) : Value();
}

Value Indent(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "indent", a, {"width", "first", "blank"});
  if (!p.ok()) return Value();
  if (!v.IsText()) return run.Fail(v.IsUndefined() ? v.message() : fmt::format("indent() needs a string, not '{}'", TypeName(v)));
  Text by;
  if (p.Get(0) != nullptr && p.Get(0)->IsText()) by = p.Get(0)->text();
  else by = Pad(run, Text(), p.IntegerOr(0, 4), Text(" "), '<');
  Text text = v.text();
  text.Append("\n");  // so that a last line end makes an empty last line
  const Value lines = CallMethod(run, Value::String(text), "splitlines", {});
  Text out;
  if (p.TruthOr(1, false)) out.Append(by);
  bool first = true;
  for (const Value& line : run.Iterate(lines)) {
    if (!run.ChargeBytes(by.bytes.size())) return Value();
    if (!first) {
      out.Append("\n");
      if (p.TruthOr(2, false) || !line.text().bytes.empty()) out.Append(by);
    }
    first = false;
    out.Append(line.text());
    if (out.bytes.size() > Run::kMaxTextBytes) return run.Fail("the chat template makes a text that is too long");
  }
  return run.MakeText(std::move(out));
}

Value Truncate(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "truncate", a, {"length", "killwords", "end", "leeway"});
  if (!p.ok()) return Value();
  const Text end = p.TextOr(2, "...");
  const Int length = p.IntegerOr(0, 255), leeway = p.Get(3) == nullptr || p.Get(3)->IsNone() ? 5 : p.IntegerOr(3, 5);
  const Int size = static_cast<Int>(run.Length(v)), keep = length - static_cast<Int>(CharacterCount(end.bytes));
  if (keep < 0 || leeway < 0) return run.Fail("truncate() has a length below that of its end");
  if (size - leeway <= length) return v;
  if (!v.IsText()) return run.Fail(fmt::format("truncate() needs a string, not '{}'", TypeName(v)));
  const Text& text = v.text();
  const std::vector<size_t> starts = CharacterStarts(text.bytes);
  Text out = text.Sub(0, starts[static_cast<size_t>(keep)]);
  if (!p.TruthOr(1, false)) {
    const size_t space = out.bytes.rfind(' ');
    if (space != std::string::npos) out = out.Sub(0, space);
  }
  out.Append(end);
  return run.MakeText(std::move(out));
}

Value WordCount(Run& run, const Value& v) {
  const Text text = run.ToText(v);
  if (!run.ChargeBytes(2 * text.bytes.size())) return Value();
  Int words = 0;
  bool inside = false;
  for (const char32_t c : Decode(text.bytes)) {
    const bool word = IsWordCharacter(c);
    if (word && !inside) ++words;
    inside = word;
  }
  return Value::Integer(words);
}

Value Escape(Run& run, const Value& v) {
  const Text text = run.ToText(v);
  return run.ChargeBytes(text.bytes.size()) ? run.MakeText(text.markup ? text : EscapeHtml(text)) : Value();
}
Value ForceEscape(Run& run, const Value& v) {
  const Text text = run.ToText(v);
  return run.ChargeBytes(text.bytes.size()) ? run.MakeText(EscapeHtml(text)) : Value();
}
Value Safe(Run& run, const Value& v) {
  Text text = run.ToText(v);
  text.markup = true;
  return run.MakeText(std::move(text));
}
Value String(Run& run, const Value& v) { return v.IsText() ? v : run.MakeText(run.ToText(v)); }

Value Format(Run& run, const Value& v, const Arguments& a) {
  if (!a.named.empty() && !a.positional.empty()) return run.Fail("can't handle positional and keyword arguments at the same time");
  if (a.named.empty()) return run.MakeText(FormatPercent(run, run.ToText(v), run.MakeList(a.positional, List::Kind::kTuple)));
  Dict dict;
  for (const auto& [name, value] : a.named) dict.Set(Value::String(name), value);
  return run.MakeText(FormatPercent(run, run.ToText(v), run.MakeDict(std::move(dict))));
}

/// `form`: as a form's field, where a space is "+" and "/" is not plain.
void AppendQuoted(const Text& text, bool form, Text& out) {
  for (size_t i = 0; i < text.bytes.size(); ++i) {
    const char c = text.bytes[i];
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (std::string_view("_.-~").find(c) != std::string_view::npos) ||
                       (c == '/' && !form);
    if (form && c == ' ') out.Append("+", text.UserAt(i));
    else if (plain) out.Append(std::string_view(&c, 1), text.UserAt(i));
    else out.Append(fmt::format("%{:02X}", static_cast<uint8_t>(c)), text.UserAt(i));
  }
}

Value UrlEncode(Run& run, const Value& v) {
  Text out;
  if (!v.IsDict() && !v.IsList()) {
    const Text text = run.ToText(v);
    if (run.ChargeBytes(3 * text.bytes.size())) AppendQuoted(text, false, out);
    return run.MakeText(std::move(out));
  }
  const Value pairs = v.IsDict() ? CallMethod(run, v, "items", {}) : v;
  for (const Value& pair : run.Iterate(pairs)) {
    const std::vector<Value> parts = run.Iterate(pair);
    if (parts.size() != 2) return run.Fail("urlencode takes pairs of a key and a value");
    if (!out.bytes.empty()) out.Append("&");
    AppendQuoted(run.ToText(parts[0]), true, out);
    out.Append("=");
    AppendQuoted(run.ToText(parts[1]), true, out);
    if (!run.ChargeBytes(out.bytes.size())) return Value();
  }
  return run.MakeText(std::move(out));
}

Value ToJson(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "tojson", a, {"ensure_ascii", "indent", "separators", "sort_keys"});
  if (!p.ok()) return Value();
  DumpOptions options;
  options.ensure_ascii = p.TruthOr(0, false);
  options.sort_keys = p.TruthOr(3, false);
  if (p.Get(1) != nullptr && !p.Get(1)->IsNone()) {
    options.item_separator = std::string(",");
    options.indent = p.Get(1)->IsText() ? p.Get(1)->text().bytes : Pad(run, Text(), p.IntegerOr(1, 0), Text(" "), '<').bytes;
  }
  if (p.Get(2) != nullptr && !p.Get(2)->IsNone()) {
    const std::vector<Value> parts = run.Iterate(*p.Get(2));
    if (parts.size() != 2 || !parts[0].IsText() || !parts[1].IsText()) return run.Fail("tojson() needs two strings as separators");
    options.item_separator = parts[0].text().bytes;
    options.key_separator = parts[1].text().bytes;
  }
  return run.ok() ? run.MakeText(DumpJson(run, v, options)) : Value();
}

constexpr FilterEntry kFilters[] = {
    {"upper", Simple<Upper>}, {"lower", Simple<Lower>}, {"title", Simple<Title>}, {"capitalize", Simple<Capitalize>}, {"trim", Trim},
    {"replace", ReplaceFilter}, {"center", Center}, {"indent", Indent}, {"truncate", Truncate}, {"wordcount", Plain<WordCount>}, {"escape", Plain<Escape>},
    {"e", Plain<Escape>}, {"forceescape", Plain<ForceEscape>}, {"safe", Plain<Safe>}, {"string", Plain<String>},
    {"format", Format}, {"urlencode", Plain<UrlEncode>}, {"tojson", ToJson}};

}  // namespace

FilterBody FindTextFilter(std::string_view name) {
  const auto it = std::find_if(std::begin(kFilters), std::end(kFilters), [&](const FilterEntry& entry) { return entry.name == name; });
  return it == std::end(kFilters) ? nullptr : it->body;
}

}  // namespace baton::jinja
