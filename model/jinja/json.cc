#include "model/jinja/json.h"

#include <algorithm>
#include <cmath>

#include "model/jinja/print.h"
#include "model/jinja/unicode.h"
#include "model/tokenizer_utf8.h"

namespace baton::jinja {
namespace {

class Dumper {
 public:
  Dumper(Run& run, const DumpOptions& options) : run_(run), options_(options) {}

  void Dump(const Value& value, uint32_t level) {
    if (!run_.Charge(2) || out.bytes.size() > Run::kMaxTextBytes) {
      run_.Fail("tojson makes a text that is too long");
      return;
    }
    const size_t before = out.bytes.size();
    switch (value.kind()) {
      case Value::Kind::kNone: out.Append("null"); break;
      case Value::Kind::kBool: out.Append(value.boolean() ? "true" : "false", value.from_user()); break;
      case Value::Kind::kInt: out.Append(PrintInteger(value.integer()), value.from_user()); break;
      case Value::Kind::kFloat: out.Append(FloatText(value.number()), value.from_user()); break;
      case Value::Kind::kText: String(value.text()); break;
      case Value::Kind::kDict: return Object(value.dict(), level);
      case Value::Kind::kList:
        if (value.list().kind == List::Kind::kList || value.list().kind == List::Kind::kTuple) return Array(value.list(), level);
        [[fallthrough]];
      default: run_.Fail(fmt::format("Object of type {} is not JSON serializable", TypeName(value))); break;
    }
    run_.ChargeBytes(out.bytes.size() - before);
  }

  Text out;

 private:
  static std::string FloatText(double value) { return std::isnan(value) ? "NaN" : std::isinf(value) ? (value < 0 ? "-Infinity" : "Infinity") : PrintFloat(value); }

  void NewLine(uint32_t level, bool from_user) {
    if (!options_.indent) return;
    std::string text = "\n";
    for (uint32_t i = 0; i < level && run_.ChargeBytes(options_.indent->size()); ++i) text += *options_.indent;
    out.Append(text, from_user);
  }

  void String(const Text& text) {
    const bool user = !text.user.empty();
    out.Append("\"", user);
    size_t at = 0;
    for (std::string_view rest = text.bytes; !rest.empty();) {
      const Utf8Step step = NextUtf8(rest);
      out.Append(Escaped(step.code, rest.substr(0, step.length)), text.UserAt(at));
      rest.remove_prefix(step.length);
      at += step.length;
    }
    out.Append("\"", user);
  }

  std::string Escaped(char32_t c, std::string_view bytes) const {
    constexpr std::string_view kFrom = "\"\\\n\r\t\f\b", kTo = "\"\\nrtfb";
    const size_t known = c < 0x80 ? kFrom.find(static_cast<char>(c)) : std::string_view::npos;
    if (known != std::string_view::npos) return std::string("\\") + kTo[known];
    if (c < 0x20 || (options_.ensure_ascii && c >= 0x7F && c < 0x10000)) return fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
    if (!options_.ensure_ascii || c < 0x7F) return std::string(bytes);
    const auto high = static_cast<uint32_t>(c - 0x10000);
    return fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (high >> 10), 0xDC00 + (high & 0x3FF));
  }

  void Array(const List& list, uint32_t level) {
    if (list.items.empty()) return out.Append("[]", list.from_user);
    out.Append("[", list.from_user);
    for (size_t i = 0; i < list.items.size() && run_.ok(); ++i) {
      if (i > 0) out.Append(options_.item_separator, list.from_user);
      NewLine(level + 1, list.from_user);
      Dump(list.items[i], level + 1);
    }
    NewLine(level, list.from_user);
    out.Append("]", list.from_user);
  }

  void Key(const Value& key) {
    switch (key.kind()) {
      case Value::Kind::kText: return String(key.text());
      case Value::Kind::kNone: return out.Append("\"null\"");
      case Value::Kind::kBool: return out.Append(key.boolean() ? "\"true\"" : "\"false\"");
      case Value::Kind::kInt: return out.Append("\"" + PrintInteger(key.integer()) + "\"");
      case Value::Kind::kFloat: return out.Append("\"" + FloatText(key.number()) + "\"");
      default: run_.Fail(fmt::format("keys must be str, int, float, bool or None, not {}", TypeName(key)));
    }
  }

  void Object(const Dict& dict, uint32_t level) {
    if (dict.items.empty()) return out.Append("{}", dict.from_user);
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : dict.items) items.push_back(&item);
    if (options_.sort_keys) {
      std::stable_sort(items.begin(), items.end(), [&](const auto* a, const auto* b) { return run_.ok() && run_.Less(a->first, b->first); });
    }
    out.Append("{", dict.from_user);
    bool first = true;
    for (const auto* item : items) {
      if (!run_.ok()) return;
      if (!first) out.Append(options_.item_separator, dict.from_user);
      first = false;
      NewLine(level + 1, dict.from_user);
      Key(item->first);
      out.Append(options_.key_separator, dict.from_user);
      Dump(item->second, level + 1);
    }
    NewLine(level, dict.from_user);
    out.Append("}", dict.from_user);
  }

  Run& run_;
  const DumpOptions& options_;
};

Value Convert(Run& run, const nlohmann::ordered_json& json, bool from_user, uint32_t depth) {
  if (depth > Run::kMaxDepth) return run.Fail(fmt::format("the input is nested deeper than {}", Run::kMaxDepth));
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::boolean: return Value::Bool(json.get<bool>(), from_user);
    case nlohmann::ordered_json::value_t::number_integer: return Value::Integer(json.get<int64_t>(), from_user);
    case nlohmann::ordered_json::value_t::number_unsigned: return Value::Integer(json.get<uint64_t>(), from_user);
    case nlohmann::ordered_json::value_t::number_float: return Value::Float(json.get<double>(), from_user);
    case nlohmann::ordered_json::value_t::string: {
      const auto& text = json.get_ref<const std::string&>();
      return Value::String(IsValidUtf8(text) ? Text(text, from_user) : Text(SanitizeUtf8(text), from_user));
    }
    case nlohmann::ordered_json::value_t::array: {
      List list;
      list.from_user = from_user;
      for (const auto& item : json) {
        list.items.push_back(Convert(run, item, from_user, depth + 1));
        list.depth = std::max(list.depth, 1 + Depth(list.items.back()));
      }
      return Value::Of(std::move(list));
    }
    case nlohmann::ordered_json::value_t::object: {
      Dict dict;
      dict.from_user = from_user;
      for (const auto& [key, value] : json.items()) dict.Set(Value::String(Text(SanitizeUtf8(key), from_user)), Convert(run, value, from_user, depth + 1));
      return Value::Of(std::move(dict));
    }
    default: return Value::None();
  }
}

}  // namespace

Value FromJson(Run& run, const nlohmann::ordered_json& json, bool from_user) { return Convert(run, json, from_user, 1); }

Text DumpJson(Run& run, const Value& value, const DumpOptions& options) {
  Dumper dumper(run, options);
  dumper.Dump(value, 0);
  return std::move(dumper.out);
}

}  // namespace baton::jinja
