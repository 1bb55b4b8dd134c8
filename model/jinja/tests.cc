#include "model/jinja/tests.h"

#include <algorithm>
#include <iterator>

#include "model/jinja/filters.h"
#include "model/jinja/parameters.h"
#include "model/jinja/unicode.h"

namespace baton::jinja {
namespace {

/// The test's one argument.
const Value* Other(Run& run, const Arguments& arguments) {
  const Parameters p(run, "test", arguments, {"other"}, 1);
  return p.ok() ? p.Get(0) : nullptr;
}

bool IsEqual(Run& run, const Value& v, const Arguments& a) {
  const Value* other = Other(run, a);
  return other != nullptr && run.Equal(v, *other);
}
bool IsNotEqual(Run& run, const Value& v, const Arguments& a) {
  const Value* other = Other(run, a);
  return other != nullptr && !run.Equal(v, *other);
}
bool IsLess(Run& run, const Value& v, const Arguments& a) {
  const Value* other = Other(run, a);
  return other != nullptr && run.Less(v, *other);
}
bool IsGreater(Run& run, const Value& v, const Arguments& a) {
  const Value* other = Other(run, a);
  return other != nullptr && run.Less(*other, v);
}
bool IsLessOrEqual(Run& run, const Value& v, const Arguments& a) { return IsLess(run, v, a) || (run.ok() && IsEqual(run, v, a)); }
bool IsGreaterOrEqual(Run& run, const Value& v, const Arguments& a) { return IsGreater(run, v, a) || (run.ok() && IsEqual(run, v, a)); }

/// value % divisor, which must be whole numbers.
bool HasRest(Run& run, const Value& v, Int divisor, Int rest) {
  const Value result = run.Binary("%", v, Value::Integer(divisor));
  return run.ok() && run.Equal(result, Value::Integer(rest));
}
bool IsDivisible(Run& run, const Value& v, const Arguments& a) {
  const Value* other = Other(run, a);
  if (other == nullptr) return false;
  const Value rest = run.Binary("%", v, *other);
  return run.ok() && run.Equal(rest, Value::Integer(0));
}

bool IsIterable(Run&, const Value& v, const Arguments&) { return v.IsUndefined() || v.IsText() || v.IsList() || v.IsDict(); }
bool IsSequence(Run&, const Value& v, const Arguments&) {
  if (v.IsUndefined() || v.IsText() || v.IsDict()) return true;
  return v.IsList() && (v.list().kind == List::Kind::kList || v.list().kind == List::Kind::kTuple || v.list().kind == List::Kind::kRange);
}
bool IsCallable(Run&, const Value& v, const Arguments&) {
  return v.IsUndefined() || v.kind() == Value::Kind::kMethod || (v.kind() == Value::Kind::kObject && v.object()->callable());
}
bool IsIn(Run& run, const Value& v, const Arguments& a) {
  const Value* other = Other(run, a);
  return other != nullptr && run.Contains(*other, v);
}
bool IsSameAs(Run& run, const Value& v, const Arguments& a) {
  const Value* other = Other(run, a);
  return other != nullptr && v.SameAs(*other);
}

using Kind = Value::Kind;
#define IS(condition) [](Run&, const Value& v, const Arguments&) -> bool { return condition; }
constexpr struct {
  std::string_view name;
  TestBody body;
} kTests[] = {
    {"defined", IS(!v.IsUndefined())},
    {"undefined", IS(v.IsUndefined())},
    {"none", IS(v.IsNone())},
    {"boolean", IS(v.kind() == Kind::kBool)},
    {"true", IS(v.kind() == Kind::kBool && v.boolean())},
    {"false", IS(v.kind() == Kind::kBool && !v.boolean())},
    {"integer", IS(v.kind() == Kind::kInt)},
    {"float", IS(v.kind() == Kind::kFloat)},
    {"number", IS(v.IsNumber())},
    {"string", IS(v.IsText())},
    {"mapping", IS(v.IsDict())},
    {"escaped", IS(v.IsText() && v.text().markup)},
    {"iterable", IsIterable},
    {"sequence", IsSequence},
    {"callable", IsCallable},
    {"sameas", IsSameAs},
    {"in", IsIn},
    {"even", [](Run& run, const Value& v, const Arguments&) { return HasRest(run, v, 2, 0); }},
    {"odd", [](Run& run, const Value& v, const Arguments&) { return HasRest(run, v, 2, 1); }},
    {"divisibleby", IsDivisible},
    {"lower", [](Run& run, const Value& v, const Arguments&) { return IsLowerCase(run.ToText(v).bytes); }},
    {"upper", [](Run& run, const Value& v, const Arguments&) { return IsUpperCase(run.ToText(v).bytes); }},
    {"filter", [](Run& run, const Value& v, const Arguments&) { return FindFilter(run.ToText(v).bytes) != nullptr; }},
    {"test", [](Run& run, const Value& v, const Arguments&) { return FindTest(run.ToText(v).bytes) != nullptr; }},
    {"eq", IsEqual}, {"equalto", IsEqual}, {"==", IsEqual},
    {"ne", IsNotEqual}, {"!=", IsNotEqual},
    {"lt", IsLess}, {"lessthan", IsLess}, {"<", IsLess},
    {"gt", IsGreater}, {"greaterthan", IsGreater}, {">", IsGreater},
    {"le", IsLessOrEqual}, {"<=", IsLessOrEqual},
    {"ge", IsGreaterOrEqual}, {">=", IsGreaterOrEqual},
};
#undef IS

}  // namespace

TestBody FindTest(std::string_view name) {
  const auto it = std::find_if(std::begin(kTests), std::end(kTests), [&](const auto& entry) { return entry.name == name; });
  return it == std::end(kTests) ? nullptr : it->body;
}

}  // namespace baton::jinja
