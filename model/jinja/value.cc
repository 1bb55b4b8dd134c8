#include "model/jinja/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/jinja/print.h"

namespace baton::jinja {

namespace {
constexpr size_t kMaxTupleKeyBytes = 64 * 1024;  // a tuple in itself in itself … is exponential
}

const std::string Value::kNoMessage = "the value is undefined";

void Text::Append(std::string_view text, bool from_user) {
  if (from_user || !user.empty()) {
    user.resize(bytes.size(), '\0');
    user.append(text.size(), from_user ? '\1' : '\0');
  }
  bytes += text;
}

void Text::Append(const Text& other, size_t begin, size_t length) {
  if (begin >= other.bytes.size()) return;
  length = std::min(length, other.bytes.size() - begin);
  if (!user.empty() || !other.user.empty()) {
    user.resize(bytes.size(), '\0');
    if (other.user.empty()) {
      user.append(length, '\0');
    } else {
      user.append(other.user, begin, length);
    }
  }
  bytes.append(other.bytes, begin, length);
}

Text Text::Sub(size_t begin, size_t length) const {
  Text out;
  out.markup = markup;
  out.Append(*this, begin, length);
  return out;
}

Value Value::Undefined(std::string message) {
  return Value(Storage(std::in_place_index<0>, Missing{std::make_shared<const std::string>(std::move(message))}));
}
Value Value::Of(List list) { return Value(Storage(std::in_place_index<6>, std::make_shared<const List>(std::move(list)))); }
Value Value::Of(Dict dict) { return Value(Storage(std::in_place_index<7>, std::make_shared<const Dict>(std::move(dict)))); }
Value Value::Of(Method method) { return Value(Storage(std::in_place_index<8>, std::make_shared<const Method>(std::move(method)))); }

bool Value::SameAs(const Value& other) const {
  if (kind() != other.kind()) return false;
  switch (kind()) {
    case Kind::kUndefined: return std::get<0>(storage_).message == std::get<0>(other.storage_).message;
    case Kind::kNone: return true;
    case Kind::kBool: return boolean() == other.boolean();
    case Kind::kInt: return integer() == other.integer();
    case Kind::kFloat: return number() == other.number();
    case Kind::kText: return text().bytes == other.text().bytes;
    case Kind::kList: return &list() == &other.list();
    case Kind::kDict: return &dict() == &other.dict();
    case Kind::kMethod: return &method() == &other.method();
    case Kind::kObject: return object() == other.object();
  }
  return false;
}

const Value* Dict::Find(std::string_view key) const {
  const auto it = index_.find("s" + std::string(key));
  return it == index_.end() ? nullptr : &items[it->second].second;
}

const Value* Dict::Find(const Value& key) const {
  if (key.IsText()) return Find(key.text().bytes);
  const auto hash = HashKey(key);
  if (!hash) return nullptr;
  const auto it = index_.find(*hash);
  return it == index_.end() ? nullptr : &items[it->second].second;
}

bool Dict::Set(const Value& key, Value value) {
  auto hash = HashKey(key);
  if (!hash) return false;
  depth = std::max({depth, 1 + Depth(key), 1 + Depth(value)});
  const auto [it, fresh] = index_.emplace(std::move(*hash), items.size());
  if (fresh) {
    items.emplace_back(key, std::move(value));
  } else {
    items[it->second].second = std::move(value);
  }
  return true;
}

std::optional<std::string> HashKey(const Value& key) {
  switch (key.kind()) {
    case Value::Kind::kUndefined: return "u";
    case Value::Kind::kNone: return "n";
    case Value::Kind::kBool:
    case Value::Kind::kInt: return fmt::format("i{}", key.integer());
    case Value::Kind::kFloat: {
      const double v = key.number();
      if (std::floor(v) == v && std::fabs(v) < 1e30) return fmt::format("i{}", static_cast<Int>(v));
      return "f" + PrintFloat(v);
    }
    case Value::Kind::kText: return "s" + key.text().bytes;
    case Value::Kind::kList: {
      if (key.list().kind == List::Kind::kGenerator) return fmt::format("g{}", static_cast<const void*>(&key.list()));
      if (key.list().kind != List::Kind::kTuple) return std::nullopt;
      std::string out = "t";
      for (const Value& item : key.list().items) {
        const auto part = HashKey(item);
        if (!part || out.size() + part->size() > kMaxTupleKeyBytes) return std::nullopt;
        out += fmt::format("{}:{}", part->size(), *part);
      }
      return out;
    }
    case Value::Kind::kDict: return std::nullopt;
    case Value::Kind::kMethod: return fmt::format("m{}", static_cast<const void*>(&key.method()));
    case Value::Kind::kObject: return fmt::format("o{}", static_cast<const void*>(key.object()));
  }
  return std::nullopt;
}

uint32_t Depth(const Value& value) {
  if (value.IsList()) return value.list().depth;
  if (value.IsDict()) return value.dict().depth;
  return value.kind() == Value::Kind::kMethod ? Depth(value.method().self) : 0;
}

std::string_view TypeName(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined: return "Undefined";
    case Value::Kind::kNone: return "NoneType";
    case Value::Kind::kBool: return "bool";
    case Value::Kind::kInt: return "int";
    case Value::Kind::kFloat: return "float";
    case Value::Kind::kText: return "str";
    case Value::Kind::kDict: return "dict";
    case Value::Kind::kMethod: return "builtin_function_or_method";
    case Value::Kind::kObject: return value.object()->type_name();
    case Value::Kind::kList: break;
  }
  switch (value.list().kind) {
    case List::Kind::kList: return "list";
    case List::Kind::kTuple: return "tuple";
    case List::Kind::kGenerator: return "generator";
    case List::Kind::kRange: return "range";
    case List::Kind::kDictKeys: return "dict_keys";
    case List::Kind::kDictValues: return "dict_values";
    case List::Kind::kDictItems: return "dict_items";
  }
  return "list";
}

std::string TypeForMessage(const Value& value) {
  return value.IsNone() ? "None" : std::string(TypeName(value)) + " object";
}

}  // namespace baton::jinja
