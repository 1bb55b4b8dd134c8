#include "model/jinja/methods.h"

#include <algorithm>
#include <cmath>

#include "model/jinja/objects.h"
#include "model/jinja/parameters.h"

namespace baton::jinja {
namespace {

constexpr std::string_view kDictMethods[] = {"items", "keys", "values", "get", "copy"};
constexpr std::string_view kListMethods[] = {"index", "count", "copy"};
constexpr std::string_view kTupleMethods[] = {"index", "count"};

Value DictMethod(Run& run, const Value& self, std::string_view name, const Arguments& arguments) {
  const Dict& dict = self.dict();
  if (name == "get") {
    const Parameters p(run, name, arguments, {"key", "default"}, 1);
    if (!p.ok()) return Value();
    if (!HashKey(*p.Get(0))) return run.Fail(fmt::format("unhashable type: '{}'", TypeName(*p.Get(0))));
    const Value* found = dict.Find(*p.Get(0));
    return found != nullptr ? *found : p.Get(1) != nullptr ? *p.Get(1) : Value::None();
  }
  const Parameters p(run, name, arguments, {});
  if (!p.ok()) return Value();
  if (name == "copy") return self;
  std::vector<Value> items;
  for (const auto& [key, value] : dict.items) {
    if (!run.Charge(1)) return Value();
    items.push_back(name == "keys" ? key : name == "values" ? value : run.MakeList({key, value}, List::Kind::kTuple));
  }
  return run.MakeList(std::move(items), name == "keys" ? List::Kind::kDictKeys : name == "values" ? List::Kind::kDictValues : List::Kind::kDictItems);
}

Value ListMethod(Run& run, const Value& self, std::string_view name, const Arguments& arguments) {
  if (name == "copy") return self;
  const Parameters p(run, name, arguments, {"value"}, 1);
  if (!p.ok()) return Value();
  Int count = 0;
  const std::vector<Value>& items = self.list().items;
  for (size_t i = 0; i < items.size() && run.ok(); ++i) {
    if (!run.Equal(items[i], *p.Get(0))) continue;
    if (name == "index") return Value::Integer(static_cast<Int>(i));
    ++count;
  }
  return name == "count" ? Value::Integer(count) : run.Fail("the value is not in list");
}

}  // namespace

bool HasMethod(const Value& self, std::string_view name) {
  const auto has = [&](const auto& names) { return std::find(std::begin(names), std::end(names), name) != std::end(names); };
  if (self.IsText()) return FindTextMethod(name) != nullptr;
  if (self.IsDict()) return has(kDictMethods);
  if (self.kind() == Value::Kind::kFloat) return name == "is_integer";
  if (!self.IsList()) return false;
  return self.list().kind == List::Kind::kList ? has(kListMethods) : self.list().kind == List::Kind::kTuple && has(kTupleMethods);
}

Value CallMethod(Run& run, const Value& self, std::string_view name, const Arguments& arguments) {
  if (!run.Charge(1)) return Value();
  if (self.IsText()) return FindTextMethod(name)(run, self, arguments);
  if (self.IsDict()) return DictMethod(run, self, name, arguments);
  if (self.kind() == Value::Kind::kObject) return CallObjectMethod(run, *self.object(), name, arguments);
  if (self.kind() == Value::Kind::kFloat) return Value::Bool(std::floor(self.number()) == self.number());
  return ListMethod(run, self, name, arguments);
}

}  // namespace baton::jinja
