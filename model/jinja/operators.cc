// Python's operators.
#include <algorithm>
#include <cmath>
#include <compare>

#include "model/jinja/format.h"
#include "model/jinja/print.h"
#include "model/jinja/run.h"

namespace baton::jinja {
namespace {

/// Two numbers, at least one of them a float, without rounding the other one.
std::partial_ordering Order(const Value& a, const Value& b) {
  if (!a.IsInteger() && !b.IsInteger()) return a.number() <=> b.number();
  if (!a.IsInteger()) return 0 <=> Order(b, a);
  const double number = b.number();
  if (std::isnan(number)) return std::partial_ordering::unordered;
  if (std::fabs(number) >= 0x1p126) return number > 0 ? std::partial_ordering::less : std::partial_ordering::greater;
  const Int whole = static_cast<Int>(std::floor(number));
  if (a.integer() != whole) return a.integer() < whole ? std::partial_ordering::less : std::partial_ordering::greater;
  return std::floor(number) < number ? std::partial_ordering::less : std::partial_ordering::equivalent;
}

}  // namespace

bool Run::Truth(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::kUndefined:
    case Value::Kind::kNone: return false;
    case Value::Kind::kBool: return value.boolean();
    case Value::Kind::kInt: return value.integer() != 0;
    case Value::Kind::kFloat: return value.number() != 0;
    case Value::Kind::kText: return !value.text().bytes.empty();
    case Value::Kind::kList: return value.list().kind == List::Kind::kGenerator || !value.list().items.empty();
    case Value::Kind::kDict: return !value.dict().items.empty();
    default: return true;
  }
}

bool Run::EqualItems(const Value& a, const Value& b) {
  if (a.IsDict()) {
    if (a.dict().items.size() != b.dict().items.size()) return false;
    return std::all_of(a.dict().items.begin(), a.dict().items.end(), [&](const auto& item) {
      const Value* other = b.dict().Find(item.first);
      return other != nullptr && Equal(item.second, *other);
    });
  }
  if (a.list().kind != b.list().kind || a.list().kind == List::Kind::kGenerator) return &a.list() == &b.list();
  return std::equal(a.list().items.begin(), a.list().items.end(), b.list().items.begin(), b.list().items.end(),
                    [&](const Value& x, const Value& y) { return Equal(x, y); });
}

bool Run::Equal(const Value& a, const Value& b) {
  if (!Charge(1)) return false;
  if (a.IsInteger() && b.IsInteger()) return a.integer() == b.integer();
  if (a.IsNumber() && b.IsNumber()) return Order(a, b) == std::partial_ordering::equivalent;
  if (a.kind() != b.kind()) return false;
  if (a.IsUndefined()) return true;
  if (a.IsText()) return ChargeBytes(a.text().bytes.size() / 8) && a.text().bytes == b.text().bytes;
  return a.IsList() || a.IsDict() ? EqualItems(a, b) : a.SameAs(b);
}

bool Run::Less(const Value& a, const Value& b) {
  if (!Charge(1)) return false;
  if (a.IsInteger() && b.IsInteger()) return a.integer() < b.integer();
  if (a.IsNumber() && b.IsNumber()) return Order(a, b) == std::partial_ordering::less;
  if (a.IsText() && b.IsText()) return ChargeBytes(a.text().bytes.size() / 8) && a.text().bytes < b.text().bytes;
  const bool sequences = a.IsList() && b.IsList() && a.list().kind == b.list().kind && (a.list().kind == List::Kind::kList || a.list().kind == List::Kind::kTuple);
  if (sequences) {
    const std::vector<Value>&x = a.list().items, &y = b.list().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!Equal(x[i], y[i])) return ok() && Less(x[i], y[i]);
    }
    return x.size() < y.size();
  }
  if (a.IsUndefined() || b.IsUndefined()) Fail(a.IsUndefined() ? a.message() : b.message());
  else Fail(fmt::format("'<' not supported between instances of '{}' and '{}'", TypeName(a), TypeName(b)));
  return false;
}

bool Run::Contains(const Value& container, const Value& item) {
  if (container.IsText()) {
    if (!item.IsText()) {
      Fail(item.IsUndefined() ? item.message() : fmt::format("'in <string>' requires string as left operand, not {}", TypeName(item)));
      return false;
    }
    return ChargeBytes(container.text().bytes.size()) && container.text().bytes.find(item.text().bytes) != std::string::npos;
  }
  if (container.IsDict()) {
    if (!HashKey(item)) Fail(fmt::format("unhashable type: '{}'", TypeName(item)));
    return ok() && container.dict().Find(item) != nullptr;
  }
  const std::vector<Value> items = Iterate(container);
  return std::any_of(items.begin(), items.end(), [&](const Value& other) { return ok() && Equal(other, item); });
}

Value Run::Binary(std::string_view op, const Value& a, const Value& b) {
  if (!ok()) return Value();
  if (op == "%" && a.IsText()) return MakeText(FormatPercent(*this, a.text(), b));
  if (a.IsUndefined() || b.IsUndefined()) return Fail(a.IsUndefined() ? a.message() : b.message());
  if (op == "**" && a.IsNumber() && b.IsNumber()) return Power(a, b);
  if (a.IsNumber() && b.IsNumber()) return Arithmetic(op, a, b);
  if (op == "+") return Add(a, b);
  if (op == "*" && b.IsInteger() && (a.IsText() || a.IsList())) return Repeat(a, b);
  if (op == "*" && a.IsInteger() && (b.IsText() || b.IsList())) return Repeat(b, a);
  return Fail(fmt::format("unsupported operand type(s) for {}: '{}' and '{}'", op, TypeName(a), TypeName(b)));
}

Value Run::Add(const Value& a, const Value& b) {
  if (a.IsText() && b.IsText()) {
    if (!ChargeBytes(a.text().bytes.size() + b.text().bytes.size())) return Value();
    const bool markup = a.text().markup || b.text().markup;
    const auto piece = [&](const Text& text) { return markup && !text.markup ? EscapeHtml(text) : text; };
    Text out = piece(a.text());
    out.Append(piece(b.text()));
    return Value::String(std::move(out));
  }
  const bool lists = a.IsList() && b.IsList() && a.list().kind == b.list().kind && (a.list().kind == List::Kind::kList || a.list().kind == List::Kind::kTuple);
  if (lists) {
    if (!Charge(8 * (a.list().items.size() + b.list().items.size()))) return Value();
    std::vector<Value> items = a.list().items;
    items.insert(items.end(), b.list().items.begin(), b.list().items.end());
    return MakeList(std::move(items), a.list().kind);
  }
  if (a.IsText()) return Fail(fmt::format("can only concatenate str (not \"{}\") to str", TypeName(b)));
  return Fail(fmt::format("unsupported operand type(s) for +: '{}' and '{}'", TypeName(a), TypeName(b)));
}

Value Run::Repeat(const Value& sequence, const Value& count) {
  const Int times = std::max(count.integer(), Int{0});
  if (sequence.IsText()) {
    const size_t bytes = sequence.text().bytes.size();
    if (bytes == 0) return sequence;
    if (times > Int{kMaxTextBytes / bytes}) return Fail("the chat template makes a text that is too long");
    if (!ChargeBytes(bytes * static_cast<size_t>(times)) || !Charge(static_cast<uint64_t>(times))) return Value();
    Text out;
    out.markup = sequence.text().markup;
    for (Int i = 0; i < times; ++i) out.Append(sequence.text());
    return Value::String(std::move(out));
  }
  const List& list = sequence.list();
  if (list.kind != List::Kind::kList && list.kind != List::Kind::kTuple) return Fail(fmt::format("unsupported operand type(s) for *: '{}' and 'int'", TypeName(sequence)));
  if (!list.items.empty() && (times > Int{kMaxUnits} || !Charge(8 * list.items.size() * static_cast<uint64_t>(times)))) {
    return Fail("the chat template makes a list that is too long");
  }
  std::vector<Value> items;
  for (Int i = 0; !list.items.empty() && i < times; ++i) items.insert(items.end(), list.items.begin(), list.items.end());
  return MakeList(std::move(items), list.kind);
}

Value Run::IntegerArithmetic(std::string_view op, Int a, Int b, bool from_user) {
  Int result = 0;
  bool overflow = false;
  if (op == "+") overflow = __builtin_add_overflow(a, b, &result);
  else if (op == "-") overflow = __builtin_sub_overflow(a, b, &result);
  else if (op == "*") overflow = __builtin_mul_overflow(a, b, &result);
  else if (b == 0) return Fail(op == "%" ? "integer modulo by zero" : "integer division or modulo by zero");
  else if (b == -1) overflow = op == "//" && __builtin_sub_overflow(Int{0}, a, &result);
  else {
    const Int quotient = a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);  // rounded down
    result = op == "//" ? quotient : a - quotient * b;
  }
  return overflow ? Fail("an integer is too large") : Value::Integer(result, from_user);
}

Value Run::Arithmetic(std::string_view op, const Value& a, const Value& b) {
  const bool from_user = a.from_user() || b.from_user();
  if (op != "/" && a.IsInteger() && b.IsInteger()) return IntegerArithmetic(op, a.integer(), b.integer(), from_user);
  const double x = a.number(), y = b.number();
  if (op == "+") return Value::Float(x + y, from_user);
  if (op == "-") return Value::Float(x - y, from_user);
  if (op == "*") return Value::Float(x * y, from_user);
  if (y == 0) return Fail(op == "/" ? "division by zero" : op == "//" ? "float floor division by zero" : "float modulo");
  if (op == "/") return Value::Float(x / y, from_user);
  double rest = std::fmod(x, y);
  double quotient = (x - rest) / y;
  if (rest != 0 && (rest < 0) != (y < 0)) {
    rest += y;
    quotient -= 1;
  }
  if (op == "%") return Value::Float(rest == 0 ? std::copysign(0.0, y) : rest, from_user);
  const double floor = std::floor(quotient);
  return Value::Float(quotient - floor > 0.5 ? floor + 1 : floor, from_user);
}

Value Run::Power(const Value& a, const Value& b) {
  const bool from_user = a.from_user() || b.from_user();
  if (!a.IsInteger() || !b.IsInteger() || b.integer() < 0) {
    if (a.number() == 0 && b.number() < 0) return Fail("0.0 cannot be raised to a negative power");
    if (a.number() < 0 && std::floor(b.number()) != b.number()) return Fail("a negative number cannot be raised to a fraction");
    const double result = std::pow(a.number(), b.number());
    return std::isinf(result) && std::isfinite(a.number()) && std::isfinite(b.number()) ? Fail("numerical result out of range") : Value::Float(result, from_user);
  }
  Int result = 1, base = a.integer();
  for (Int exponent = b.integer(); exponent > 0; exponent >>= 1) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return Fail("an integer is too large");
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) return Fail("an integer is too large");
  }
  return Value::Integer(result, from_user);
}

Value Run::Unary(const Expr& expr, const ScopePtr& scope) {
  const Value value = Evaluate(*expr.children[0], scope);
  if (!ok()) return Value();
  if (value.IsUndefined()) return Fail(value.message());
  if (!value.IsNumber()) return Fail(fmt::format("bad operand type for unary {}: '{}'", expr.name, TypeName(value)));
  const bool minus = expr.name == "-";
  if (value.kind() == Value::Kind::kFloat) return Value::Float(minus ? -value.number() : value.number(), value.from_user());
  return minus ? IntegerArithmetic("-", 0, value.integer(), value.from_user()) : Value::Integer(value.integer(), value.from_user());
}

}  // namespace baton::jinja
