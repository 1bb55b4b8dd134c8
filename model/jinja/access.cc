// Attributes, items, slices and iteration.
#include <algorithm>
#include <cstdlib>

#include "model/jinja/methods.h"
#include "model/jinja/run.h"
#include "model/jinja/unicode.h"

namespace baton::jinja {
namespace {

/// Python's slice.indices for a sequence of `size`.
struct Span {
  Int start, stop, step;
};
Span Indices(const Value& start, const Value& stop, Int step, Int size) {
  const auto bound = [&](const Value& value, Int fallback, Int low, Int high) {
    if (value.IsNone()) return fallback;
    Int i = value.integer();
    if (i < 0) i += size;
    return std::clamp(i, low, high);
  };
  if (step > 0) return {bound(start, 0, 0, size), bound(stop, size, 0, size), step};
  return {bound(start, size - 1, -1, size - 1), bound(stop, -1, -1, size - 1), step};
}

/// A whole number that fits an index of `size` elements; -1: outside.
Int IndexOf(Int index, size_t size) {
  if (index < 0) index += static_cast<Int>(size);
  return index < 0 || index >= static_cast<Int>(size) ? -1 : index;
}

bool CanIndex(const Value& value) {
  return value.IsList() && (value.list().kind == List::Kind::kList || value.list().kind == List::Kind::kTuple || value.list().kind == List::Kind::kRange);
}

}  // namespace

Value Run::Attribute(const Value& value, std::string_view name) {
  if (!ok()) return Value();
  if (value.IsUndefined()) return Fail(value.message());
  if (value.kind() == Value::Kind::kObject) {
    if (auto found = value.object()->Attribute(name)) return *found;
  } else if (HasMethod(value, name)) {
    return Value::Of(Method{value, std::string(name)});
  }
  if (value.IsDict()) {
    if (const Value* item = value.dict().Find(name)) return *item;
  }
  if (value.IsList() && value.list().group && (name == "grouper" || name == "list")) return value.list().items[name == "list" ? 1 : 0];
  return Value::Undefined(fmt::format("'{}' has no attribute '{}'", TypeForMessage(value), name));
}

Value Run::Item(const Value& value, const Value& key) {
  if (!ok()) return Value();
  if (value.IsUndefined()) return Fail(value.message());
  if (value.IsDict()) {
    if (const Value* item = value.dict().Find(key)) return *item;
  } else if (key.IsInteger() && CanIndex(value)) {
    const Int index = IndexOf(key.integer(), value.list().items.size());
    if (index >= 0) return value.list().items[static_cast<size_t>(index)];
  } else if (key.IsInteger() && value.IsText()) {
    if (!ChargeBytes(value.text().bytes.size())) return Value();
    const std::vector<size_t> starts = CharacterStarts(value.text().bytes);
    const Int index = IndexOf(key.integer(), starts.size() - 1);
    if (index >= 0) return Value::String(value.text().Sub(starts[static_cast<size_t>(index)], starts[static_cast<size_t>(index) + 1] - starts[static_cast<size_t>(index)]));
  }
  if (!key.IsText()) {
    const Text text = ToText(key);
    return Value::Undefined(fmt::format("{} has no element {}", TypeForMessage(value), text.bytes.substr(0, 100)));
  }
  if (value.kind() == Value::Kind::kObject) {
    if (auto found = value.object()->Attribute(key.text().bytes)) return *found;
  } else if (HasMethod(value, key.text().bytes)) {
    return Value::Of(Method{value, key.text().bytes});
  }
  return Value::Undefined(fmt::format("'{}' has no attribute '{}'", TypeForMessage(value), key.text().bytes.substr(0, 200)));
}

Value Run::Slice(const Value& value, const Value& start, const Value& stop, const Value& step) {
  if (!ok()) return Value();
  if (value.IsUndefined()) return Fail(value.message());
  for (const Value* part : {&start, &stop, &step}) {
    if (!part->IsNone() && !part->IsInteger()) return Value::Undefined("slice indices must be integers or None");
  }
  const Int by = step.IsNone() ? 1 : step.integer();
  const bool indexable = CanIndex(value);
  if (!indexable && !value.IsText()) return Value::Undefined(fmt::format("'{}' object is not subscriptable by a slice", TypeName(value)));
  if (by == 0) return Fail("slice step cannot be zero");
  std::vector<size_t> starts;
  if (!indexable) {
    if (!ChargeBytes(value.text().bytes.size())) return Value();
    starts = CharacterStarts(value.text().bytes);
  }
  const Int size = static_cast<Int>(indexable ? value.list().items.size() : starts.size() - 1);
  const Span span = Indices(start, stop, by, size);
  std::vector<Value> items;
  Text text;
  text.markup = value.IsText() && value.text().markup;
  for (Int i = span.start; by > 0 ? i < span.stop : i > span.stop;) {
    const auto at = static_cast<size_t>(i);
    if (indexable) items.push_back(value.list().items[at]);
    else text.Append(value.text(), starts[at], starts[at + 1] - starts[at]);
    if (by > size || by < -size) break;
    i += by;
  }
  if (!indexable) return MakeText(std::move(text));
  return MakeList(std::move(items), value.list().kind == List::Kind::kTuple ? List::Kind::kTuple : List::Kind::kList);
}

std::vector<Value> Run::Iterate(const Value& value) {
  std::vector<Value> items;
  if (!ok() || value.IsUndefined()) return items;
  if (value.IsList()) {
    const List& list = value.list();
    if (!list.failure.ok()) status_ = list.failure;
    if (!Charge(8 * list.items.size())) return items;
    const size_t from = list.kind == List::Kind::kGenerator ? std::exchange(list.consumed, list.items.size()) : 0;
    return {list.items.begin() + static_cast<std::ptrdiff_t>(from), list.items.end()};
  }
  if (value.IsDict()) {
    if (!Charge(8 * value.dict().items.size())) return items;
    for (const auto& item : value.dict().items) items.push_back(item.first);
    return items;
  }
  if (value.IsText()) {
    const std::vector<size_t> starts = CharacterStarts(value.text().bytes);
    if (!Charge(24 * starts.size())) return items;
    for (size_t i = 0; i + 1 < starts.size(); ++i) items.push_back(Value::String(value.text().Sub(starts[i], starts[i + 1] - starts[i])));
    return items;
  }
  Fail(fmt::format("'{}' object is not iterable", TypeName(value)));
  return items;
}

size_t Run::Length(const Value& value) {
  if (value.IsUndefined()) return 0;
  if (value.IsText()) return ChargeBytes(value.text().bytes.size()) ? CharacterCount(value.text().bytes) : 0;
  if (value.IsDict()) return value.dict().items.size();
  if (value.IsList() && value.list().kind != List::Kind::kGenerator) return value.list().items.size();
  Fail(fmt::format("object of type '{}' has no len()", TypeName(value)));
  return 0;
}

Value Run::AttributePath(const Value& value, const Value& path) {
  if (path.IsNone()) return value;
  if (!path.IsText()) return Item(value, path);
  Value at = value;
  const std::string& text = path.text().bytes;
  for (size_t begin = 0; ok() && begin <= text.size();) {
    const size_t end = std::min(text.find('.', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    const bool number = !part.empty() && part.size() < 10 && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    at = Item(at, number ? Value::Integer(std::atoi(part.c_str())) : Value::String(part));
    begin = end + 1;
    if (!Charge(1)) break;
  }
  return at;
}

}  // namespace baton::jinja
