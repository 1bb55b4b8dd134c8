// Methods of str.
#include <algorithm>
#include <iterator>

#include "model/jinja/format.h"
#include "model/jinja/methods.h"
#include "model/jinja/parameters.h"
#include "model/jinja/unicode.h"
#include "model/tokenizer_utf8.h"

namespace baton::jinja {
namespace {

/// A method without arguments that maps the text.
template <Text (*kMake)(const Text&)>
Value Mapped(Run& run, const Value& self, const Arguments& arguments) {
  const Parameters p(run, "str method", arguments, {});
  return p.ok() && run.ChargeBytes(2 * self.text().bytes.size()) ? run.MakeText(kMake(self.text())) : Value();
}
template <Case kMode>
Text WithCase(const Text& text) {
  return MapCase(text, kMode);
}

Value Predicate(Run& run, std::string_view name, const Arguments& arguments, bool value) {
  const Parameters p(run, name, arguments, {});
  return p.ok() ? Value::Bool(value) : Value();
}

Value StripMethod(Run& run, const Value& self, const Arguments& arguments, Side side) {
  const Parameters p(run, "strip", arguments, {"chars"});
  if (!p.ok() || !run.ChargeBytes(2 * self.text().bytes.size())) return Value();
  if (p.Get(0) == nullptr || p.Get(0)->IsNone()) return run.MakeText(Strip(self.text(), nullptr, side));
  const Text characters = p.TextOr(0, "");
  return run.ok() ? run.MakeText(Strip(self.text(), &characters, side)) : Value();
}

/// Cuts at runs of white space, at most `limit` times (negative: no limit), from either end.
std::vector<Value> SplitSpace(const Text& text, Int limit, bool from_right) {
  const std::vector<size_t> starts = CharacterStarts(text.bytes);
  const std::u32string all = Decode(text.bytes);
  std::vector<Value> parts;
  const auto add = [&](size_t begin, size_t end) { parts.push_back(Value::String(text.Sub(starts[begin], starts[end] - starts[begin]))); };
  if (!from_right) {
    for (size_t i = 0; i < all.size();) {
      while (i < all.size() && IsSpace(all[i])) ++i;
      if (i == all.size()) break;
      size_t end = i;
      if (limit >= 0 && static_cast<Int>(parts.size()) >= limit) {
        add(i, all.size());  // what follows stays as it is
        break;
      }
      while (end < all.size() && !IsSpace(all[end])) ++end;
      add(i, end);
      i = end;
    }
    return parts;
  }
  for (size_t i = all.size(); i > 0;) {
    while (i > 0 && IsSpace(all[i - 1])) --i;
    if (i == 0) break;
    size_t begin = i;
    if (limit >= 0 && static_cast<Int>(parts.size()) >= limit) {
      add(0, i);
      break;
    }
    while (begin > 0 && !IsSpace(all[begin - 1])) --begin;
    add(begin, i);
    i = begin;
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<Value> SplitAt(const Text& text, const std::string& separator, Int limit, bool from_right) {
  std::vector<Value> parts;
  if (!from_right) {
    size_t begin = 0;
    for (size_t at = text.bytes.find(separator); at != std::string::npos && (limit < 0 || static_cast<Int>(parts.size()) < limit); at = text.bytes.find(separator, begin)) {
      parts.push_back(Value::String(text.Sub(begin, at - begin)));
      begin = at + separator.size();
    }
    parts.push_back(Value::String(text.Sub(begin)));
    return parts;
  }
  size_t end = text.bytes.size();
  while ((limit < 0 || static_cast<Int>(parts.size()) < limit) && end >= separator.size()) {
    const size_t at = text.bytes.rfind(separator, end - separator.size());
    if (at == std::string::npos) break;
    parts.push_back(Value::String(text.Sub(at + separator.size(), end - at - separator.size())));
    end = at;
  }
  parts.push_back(Value::String(text.Sub(0, end)));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

Value Split(Run& run, const Value& self, const Arguments& arguments, bool from_right) {
  const Parameters p(run, "split", arguments, {"sep", "maxsplit"});
  if (!p.ok() || !run.ChargeBytes(4 * self.text().bytes.size())) return Value();
  const Int limit = p.IntegerOr(1, -1);
  if (p.Get(0) == nullptr || p.Get(0)->IsNone()) return run.MakeList(SplitSpace(self.text(), limit, from_right));
  const Text separator = p.TextOr(0, "");
  if (!run.ok()) return Value();
  if (separator.bytes.empty()) return run.Fail("empty separator");
  return run.MakeList(SplitAt(self.text(), separator.bytes, limit, from_right));
}

Value SplitLines(Run& run, const Value& self, const Arguments& arguments) {
  const Parameters p(run, "splitlines", arguments, {"keepends"});
  if (!p.ok() || !run.ChargeBytes(4 * self.text().bytes.size())) return Value();
  std::vector<Value> lines;
  const std::string& bytes = self.text().bytes;
  size_t begin = 0;
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Step step = NextUtf8(std::string_view(bytes).substr(at));
    size_t next = at + step.length;
    if (IsLineEnd(step.code)) {
      if (step.code == '\r' && next < bytes.size() && bytes[next] == '\n') ++next;
      lines.push_back(Value::String(self.text().Sub(begin, (p.TruthOr(0, false) ? next : at) - begin)));
      begin = next;
    }
    at = next;
  }
  if (begin < bytes.size()) lines.push_back(Value::String(self.text().Sub(begin)));
  return run.MakeList(std::move(lines));
}

Value Partition(Run& run, const Value& self, const Arguments& arguments, bool from_right) {
  const Parameters p(run, "partition", arguments, {"sep"}, 1);
  const Text separator = p.ok() ? p.TextOr(0, "") : Text();
  if (!run.ChargeBytes(2 * self.text().bytes.size())) return Value();
  if (separator.bytes.empty()) return run.Fail("empty separator");
  const Text& text = self.text();
  const size_t at = from_right ? text.bytes.rfind(separator.bytes) : text.bytes.find(separator.bytes);
  if (at == std::string::npos) {
    const Value empty = Value::String("");
    return run.MakeList(from_right ? std::vector<Value>{empty, empty, self} : std::vector<Value>{self, empty, empty}, List::Kind::kTuple);
  }
  return run.MakeList({Value::String(text.Sub(0, at)), Value::String(separator), Value::String(text.Sub(at + separator.bytes.size()))}, List::Kind::kTuple);
}

/// The part of the text that Python's start and end arguments name, as bytes; false when start lies behind the end.
bool Window(const Parameters& p, const std::string& text, size_t& begin, size_t& end) {
  const std::vector<size_t> starts = CharacterStarts(text);
  const Int size = static_cast<Int>(starts.size()) - 1;
  const auto index = [&](size_t i, Int fallback) {
    Int at = p.Get(i) == nullptr || p.Get(i)->IsNone() ? fallback : p.IntegerOr(i, fallback);
    if (at < 0) at = std::max(at + size, Int{0});
    return at;
  };
  const Int from = index(1, 0), to = std::min(index(2, size), size);
  if (from > size || to < from) return false;
  begin = starts[static_cast<size_t>(from)];
  end = starts[static_cast<size_t>(to)];
  return true;
}

Value Search(Run& run, std::string_view name, const Value& self, const Arguments& arguments) {
  const Parameters p(run, name, arguments, {"sub", "start", "end"}, 1);
  if (!p.ok() || !run.ChargeBytes(4 * self.text().bytes.size())) return Value();
  const Text wanted = p.TextOr(0, "");
  size_t begin = 0, end = 0;
  size_t at = std::string::npos;
  if (Window(p, self.text().bytes, begin, end)) {
    const std::string_view window = std::string_view(self.text().bytes).substr(0, end);
    at = name[0] == 'r' ? window.rfind(wanted.bytes) : window.find(wanted.bytes, begin);
    if (at != std::string::npos && at < begin) at = std::string::npos;
  }
  if (at != std::string::npos) return Value::Integer(static_cast<Int>(CharacterCount(std::string_view(self.text().bytes).substr(0, at))));
  return name.find("index") != std::string_view::npos ? run.Fail("substring not found") : Value::Integer(-1);
}

Value Count(Run& run, const Value& self, const Arguments& arguments) {
  const Parameters p(run, "count", arguments, {"sub", "start", "end"}, 1);
  if (!p.ok() || !run.ChargeBytes(4 * self.text().bytes.size())) return Value();
  const Text wanted = p.TextOr(0, "");
  size_t begin = 0, end = 0;
  if (!Window(p, self.text().bytes, begin, end)) return Value::Integer(0);
  const std::string_view window = std::string_view(self.text().bytes).substr(0, end);
  if (wanted.bytes.empty()) return Value::Integer(static_cast<Int>(CharacterCount(window.substr(begin))) + 1);
  Int count = 0;
  for (size_t at = window.find(wanted.bytes, begin); at != std::string_view::npos; at = window.find(wanted.bytes, at + wanted.bytes.size())) ++count;
  return Value::Integer(count);
}

Value Affix(Run& run, std::string_view name, const Value& self, const Arguments& arguments) {
  const Parameters p(run, name, arguments, {"prefix", "start", "end"}, 1);
  if (!p.ok() || !run.ChargeBytes(self.text().bytes.size())) return Value();
  size_t begin = 0, end = 0;
  if (!Window(p, self.text().bytes, begin, end)) return Value::Bool(false);
  const std::string_view window = std::string_view(self.text().bytes).substr(begin, end - begin);
  const bool tuple = p.Get(0)->IsList() && p.Get(0)->list().kind == List::Kind::kTuple;
  for (const Value& candidate : tuple ? run.Iterate(*p.Get(0)) : std::vector<Value>{*p.Get(0)}) {
    if (!candidate.IsText()) return run.Fail(fmt::format("{} first arg must be str or a tuple of str, not {}", name, TypeName(candidate)));
    const std::string& text = candidate.text().bytes;
    if (text.size() <= window.size() && (name == "startswith" ? window.substr(0, text.size()) : window.substr(window.size() - text.size())) == text) return Value::Bool(true);
  }
  return Value::Bool(false);
}

Value RemoveAffix(Run& run, std::string_view name, const Value& self, const Arguments& arguments) {
  const Parameters p(run, name, arguments, {"prefix"}, 1);
  const Text affix = p.ok() ? p.TextOr(0, "") : Text();
  const Text& text = self.text();
  const size_t n = affix.bytes.size();
  if (!run.ok() || n == 0 || n > text.bytes.size()) return self;
  if (name == "removeprefix") return text.bytes.compare(0, n, affix.bytes) == 0 ? run.MakeText(text.Sub(n)) : self;
  return text.bytes.compare(text.bytes.size() - n, n, affix.bytes) == 0 ? run.MakeText(text.Sub(0, text.bytes.size() - n)) : self;
}

Value ReplaceMethod(Run& run, const Value& self, const Arguments& arguments) {
  const Parameters p(run, "replace", arguments, {"old", "new", "count"}, 2);
  if (!p.ok()) return Value();
  const Text from = p.TextOr(0, ""), to = p.TextOr(1, "");
  return run.ok() ? run.MakeText(Replace(run, self.text(), from, to, p.IntegerOr(2, -1))) : Value();
}

Value JoinMethod(Run& run, const Value& self, const Arguments& arguments) {
  const Parameters p(run, "join", arguments, {"iterable"}, 1);
  if (!p.ok()) return Value();
  Text out;
  bool first = true;
  for (const Value& item : run.Iterate(*p.Get(0))) {
    if (!item.IsText()) return run.Fail(fmt::format("join() expected str instances, {} found", TypeName(item)));
    const size_t added = item.text().bytes.size() + self.text().bytes.size();
    const bool fits = out.bytes.size() + item.text().bytes.size() <= Run::kMaxTextBytes;
    if (!run.ChargeBytes(fits ? added : Run::kMaxTextBytes + 1)) return Value();
    if (!first) out.Append(self.text());
    first = false;
    out.Append(item.text());
  }
  return run.MakeText(std::move(out));
}

Value Justify(Run& run, std::string_view name, const Value& self, const Arguments& arguments, char align) {
  const Parameters p(run, name, arguments, {"width", "fillchar"}, 1);
  if (!p.ok()) return Value();
  const Text fill = p.TextOr(1, " ");
  if (CharacterCount(fill.bytes) != 1) return run.Fail("The fill character must be exactly one character long");
  const Int width = p.IntegerOr(0, 0);
  return run.MakeText(Pad(run, self.text(), width, fill, align));
}

Value ZeroFill(Run& run, const Value& self, const Arguments& arguments) {
  const Parameters p(run, "zfill", arguments, {"width"}, 1);
  if (!p.ok()) return Value();
  const Text& text = self.text();
  const bool sign = !text.bytes.empty() && (text.bytes[0] == '-' || text.bytes[0] == '+');
  Text out = text.Sub(0, sign ? 1 : 0);
  if (!sign) out = Text();
  out.Append(Pad(run, text.Sub(sign ? 1 : 0), p.IntegerOr(0, 0) - (sign ? 1 : 0), Text("0"), '>'));
  return run.MakeText(std::move(out));
}

Value FormatMethod(Run& run, const Value& self, const Arguments& arguments) { return run.MakeText(FormatBraces(run, self.text(), arguments)); }

Value ExpandTabs(Run& run, const Value& self, const Arguments& arguments) {
  const Parameters p(run, "expandtabs", arguments, {"tabsize"});
  if (!p.ok()) return Value();
  const Int size = std::clamp(p.IntegerOr(0, 8), Int{0}, Int{1000});
  Text out;
  Int column = 0;
  for (const Value& c : run.Iterate(self)) {
    const std::string& bytes = c.text().bytes;
    if (bytes != "\t") {
      out.Append(c.text());
      column = bytes == "\n" || bytes == "\r" ? 0 : column + 1;
      continue;
    }
    const Int spaces = size == 0 ? 0 : size - column % size;
    if (!run.ChargeBytes(static_cast<size_t>(spaces))) return Value();
    out.Append(std::string(static_cast<size_t>(spaces), ' '), c.text().UserAt(0));
    column += spaces;
  }
  return run.MakeText(std::move(out));
}

#define PREDICATE(name, test) \
  {name, [](Run& run, const Value& self, const Arguments& a) { return Predicate(run, name, a, run.ChargeBytes(4 * self.text().bytes.size()) && (test)); }}

constexpr struct {
  std::string_view name;
  MethodBody body;
} kMethods[] = {
    {"upper", Mapped<WithCase<Case::kUpper>>},
    {"lower", Mapped<WithCase<Case::kLower>>},
    {"casefold", Mapped<WithCase<Case::kFold>>},
    {"title", Mapped<WithCase<Case::kTitle>>},
    {"swapcase", Mapped<WithCase<Case::kSwap>>},
    {"capitalize", Mapped<Capitalize>},
    {"strip", [](Run& run, const Value& self, const Arguments& a) { return StripMethod(run, self, a, Side::kBoth); }},
    {"lstrip", [](Run& run, const Value& self, const Arguments& a) { return StripMethod(run, self, a, Side::kLeft); }},
    {"rstrip", [](Run& run, const Value& self, const Arguments& a) { return StripMethod(run, self, a, Side::kRight); }},
    {"split", [](Run& run, const Value& self, const Arguments& a) { return Split(run, self, a, false); }},
    {"rsplit", [](Run& run, const Value& self, const Arguments& a) { return Split(run, self, a, true); }},
    {"splitlines", SplitLines},
    {"partition", [](Run& run, const Value& self, const Arguments& a) { return Partition(run, self, a, false); }},
    {"rpartition", [](Run& run, const Value& self, const Arguments& a) { return Partition(run, self, a, true); }},
    {"find", [](Run& run, const Value& self, const Arguments& a) { return Search(run, "find", self, a); }},
    {"rfind", [](Run& run, const Value& self, const Arguments& a) { return Search(run, "rfind", self, a); }},
    {"index", [](Run& run, const Value& self, const Arguments& a) { return Search(run, "index", self, a); }},
    {"rindex", [](Run& run, const Value& self, const Arguments& a) { return Search(run, "rindex", self, a); }},
    {"count", Count},
    {"startswith", [](Run& run, const Value& self, const Arguments& a) { return Affix(run, "startswith", self, a); }},
    {"endswith", [](Run& run, const Value& self, const Arguments& a) { return Affix(run, "endswith", self, a); }},
    {"removeprefix", [](Run& run, const Value& self, const Arguments& a) { return RemoveAffix(run, "removeprefix", self, a); }},
    {"removesuffix", [](Run& run, const Value& self, const Arguments& a) { return RemoveAffix(run, "removesuffix", self, a); }},
    {"replace", ReplaceMethod},
    {"join", JoinMethod},
    {"format", FormatMethod},
    {"ljust", [](Run& run, const Value& self, const Arguments& a) { return Justify(run, "ljust", self, a, '<'); }},
    {"rjust", [](Run& run, const Value& self, const Arguments& a) { return Justify(run, "rjust", self, a, '>'); }},
    {"center", [](Run& run, const Value& self, const Arguments& a) { return Justify(run, "center", self, a, 'c'); }},
    {"zfill", ZeroFill},
    {"expandtabs", ExpandTabs},
    PREDICATE("isdigit", IsAll(self.text().bytes, IsDigit)),
    PREDICATE("isdecimal", IsAll(self.text().bytes, IsDecimal)),
    PREDICATE("isnumeric", IsAll(self.text().bytes, IsNumeric)),
    PREDICATE("isalpha", IsAll(self.text().bytes, IsAlphabetic)),
    PREDICATE("isalnum", IsAll(self.text().bytes, IsAlphanumeric)),
    PREDICATE("isspace", IsAll(self.text().bytes, IsSpace)),
    PREDICATE("isupper", IsUpperCase(self.text().bytes)),
    PREDICATE("islower", IsLowerCase(self.text().bytes)),
    PREDICATE("istitle", IsTitleCase(self.text().bytes)),
    PREDICATE("isprintable", self.text().bytes.empty() || IsAll(self.text().bytes, IsPrintable)),
    PREDICATE("isascii", std::all_of(self.text().bytes.begin(), self.text().bytes.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; })),
    PREDICATE("isidentifier", IsAll(self.text().bytes, IsWordCharacter) && !IsDecimal(Decode(self.text().bytes)[0])),
};

#undef PREDICATE

}  // namespace

MethodBody FindTextMethod(std::string_view name) {
  const auto it = std::find_if(std::begin(kMethods), std::end(kMethods), [&](const auto& entry) { return entry.name == name; });
  return it == std::end(kMethods) ? nullptr : it->body;
}

}  // namespace baton::jinja
