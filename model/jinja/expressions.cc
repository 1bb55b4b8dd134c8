// Evaluation of expressions.
#include <algorithm>

#include "model/jinja/filters.h"
#include "model/jinja/methods.h"
#include "model/jinja/objects.h"
#include "model/jinja/run.h"
#include "model/jinja/tests.h"

namespace baton::jinja {

Value Run::Evaluate(const Expr& expr, const ScopePtr& scope) {
  const Nested nested(*this);
  if (!Charge(2)) return Value();
  const auto child = [&](size_t i) { return Evaluate(*expr.children[i], scope); };
  switch (expr.kind) {
    case Expr::Kind::kLiteral: return expr.literal;
    case Expr::Kind::kName: return Name(expr, scope);
    case Expr::Kind::kList:
    case Expr::Kind::kTuple: {
      std::vector<Value> items;
      for (size_t i = 0; i < expr.children.size(); ++i) items.push_back(child(i));
      return MakeList(std::move(items), expr.kind == Expr::Kind::kList ? List::Kind::kList : List::Kind::kTuple);
    }
    case Expr::Kind::kDict: return DictLiteral(expr, scope);
    case Expr::Kind::kAttribute: return Attribute(child(0), expr.name);
    case Expr::Kind::kItem: return EvaluateItem(expr, scope);
    case Expr::Kind::kSlice: return Fail("a slice stands where no slice can be");
    case Expr::Kind::kCall: {
      const Value callee = child(0);
      Arguments arguments;
      return EvaluateArguments(expr, scope, arguments) ? Call(callee, arguments) : Value();
    }
    case Expr::Kind::kFilter: return Filter(expr, scope);
    case Expr::Kind::kTest: {
      const Value input = child(0);
      Arguments arguments;
      return EvaluateArguments(expr, scope, arguments) ? ApplyTest(expr.name, input, arguments) : Value();
    }
    case Expr::Kind::kUnary: return Unary(expr, scope);
    case Expr::Kind::kBinary: {
      const Value left = child(0);
      return Binary(expr.name, left, child(1));
    }
    case Expr::Kind::kConcat: return Concat(expr, scope);
    case Expr::Kind::kCompare: return Compare(expr, scope);
    case Expr::Kind::kAnd:
    case Expr::Kind::kOr: {
      Value left = child(0);
      return Truth(left) == (expr.kind == Expr::Kind::kOr) ? left : child(1);
    }
    case Expr::Kind::kNot: return Value::Bool(!Truth(child(0)));
    case Expr::Kind::kConditional: return Conditional(expr, scope);
  }
  return Value();
}

Value Run::Name(const Expr& expr, const ScopePtr& scope) {
  const Value* value = scope->Find(expr.name);
  return value != nullptr ? *value : Value::Undefined("'" + expr.name + "' is undefined");
}

Value Run::Conditional(const Expr& expr, const ScopePtr& scope) {
  if (Truth(Evaluate(*expr.children[0], scope))) return Evaluate(*expr.children[1], scope);
  if (expr.children[2] != nullptr) return Evaluate(*expr.children[2], scope);
  return Value::Undefined("the inline if-expression evaluated to false and no else section was defined.");
}

Value Run::DictLiteral(const Expr& expr, const ScopePtr& scope) {
  Dict dict;
  for (size_t i = 0; ok() && i + 1 < expr.children.size(); i += 2) {
    const Value key = Evaluate(*expr.children[i], scope);
    if (!dict.Set(key, Evaluate(*expr.children[i + 1], scope))) return Fail(fmt::format("unhashable type: '{}'", TypeName(key)));
  }
  return MakeDict(std::move(dict));
}

Value Run::EvaluateItem(const Expr& expr, const ScopePtr& scope) {
  const Value base = Evaluate(*expr.children[0], scope);
  const Expr& key = *expr.children[1];
  if (key.kind != Expr::Kind::kSlice) return Item(base, Evaluate(key, scope));
  const auto part = [&](size_t i) { return key.children[i] == nullptr ? Value::None() : Evaluate(*key.children[i], scope); };
  const Value start = part(0), stop = part(1);
  return Slice(base, start, stop, part(2));
}

bool Run::EvaluateArguments(const Expr& expr, const ScopePtr& scope, Arguments& arguments) {
  for (size_t i = 1; i < expr.children.size(); ++i) arguments.positional.push_back(Evaluate(*expr.children[i], scope));
  for (const auto& [name, value] : expr.named) arguments.named.emplace_back(name, Evaluate(*value, scope));
  if (expr.star != nullptr) {
    for (Value& value : Iterate(Evaluate(*expr.star, scope))) arguments.positional.push_back(std::move(value));
  }
  if (expr.double_star != nullptr) {
    const Value more = Evaluate(*expr.double_star, scope);
    if (!more.IsDict()) {
      Fail("argument after ** must be a mapping");
      return false;
    }
    for (const auto& [key, value] : more.dict().items) {
      if (key.IsText()) arguments.named.emplace_back(key.text().bytes, value);
      else Fail("keywords must be strings");
    }
  }
  return Charge(arguments.positional.size() + arguments.named.size());
}

Value Run::Call(const Value& callee, const Arguments& arguments) {
  if (!ok()) return Value();
  if (callee.IsUndefined()) return Fail(callee.message());
  if (callee.kind() == Value::Kind::kMethod) return CallMethod(*this, callee.method().self, callee.method().name, arguments);
  if (callee.kind() != Value::Kind::kObject || !callee.object()->callable()) return Fail(fmt::format("'{}' object is not callable", TypeName(callee)));
  return callee.object()->Call(*this, arguments);
}

Value Run::Concat(const Expr& expr, const ScopePtr& scope) {
  Text out;
  for (const ExprPtr& child : expr.children) {
    const Text text = ToText(Evaluate(*child, scope));
    if (!ChargeBytes(text.bytes.size())) return Value();
    out.Append(text);
  }
  return MakeText(std::move(out));
}

Value Run::Compare(const Expr& expr, const ScopePtr& scope) {
  Value left = Evaluate(*expr.children[0], scope);
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    Value right = Evaluate(*expr.children[i + 1], scope);
    if (!ok() || !CompareWith(expr.operators[i], left, right)) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

bool Run::CompareWith(std::string_view op, const Value& a, const Value& b) {
  if (op == "==") return Equal(a, b);
  if (op == "!=") return !Equal(a, b);
  if (op == "in") return Contains(b, a);
  if (op == "not in") return !Contains(b, a);
  if (op == "<") return Less(a, b);
  if (op == ">") return Less(b, a);
  // Not the negation of the opposite: it must be false for not-a-number.
  return op == "<=" ? Less(a, b) || Equal(a, b) : Less(b, a) || Equal(a, b);
}

Value Run::Filter(const Expr& expr, const ScopePtr& scope) { return FilterChain(&expr, Value(), scope); }

// `input` is what a filter without an operand (a filter block's first) applies to.
Value Run::FilterChain(const Expr* chain, Value input, const ScopePtr& scope) {
  if (chain == nullptr) return input;
  const Nested nested(*this);
  const Expr* operand = chain->children[0].get();
  if (operand == nullptr || operand->kind == Expr::Kind::kFilter) {
    input = FilterChain(operand, std::move(input), scope);
  } else {
    input = Evaluate(*operand, scope);
  }
  Arguments arguments;
  return EvaluateArguments(*chain, scope, arguments) ? ApplyFilter(chain->name, input, arguments) : Value();
}

Value Run::ApplyFilter(std::string_view name, const Value& input, const Arguments& arguments) {
  if (!Charge(1)) return Value();
  const FilterBody filter = FindFilter(name);
  return filter != nullptr ? filter(*this, input, arguments) : Fail(fmt::format("No filter named '{}'.", name));
}

Value Run::ApplyTest(std::string_view name, const Value& input, const Arguments& arguments) {
  if (!Charge(1)) return Value();
  const TestBody test = FindTest(name);
  return test != nullptr ? Value::Bool(test(*this, input, arguments)) : Fail(fmt::format("No test named '{}'.", name));
}

}  // namespace baton::jinja
