// One rendering of a template: what it may still use, its first error, and the evaluation of the tree. After the first
// error every evaluation returns undefined at once and the output is thrown away. Thread: one at a time.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/jinja/ast.h"
#include "model/jinja/value.h"

namespace baton::jinja {

/// The names a block sets; inner scopes see outer ones and never change them.
struct Scope {
  std::vector<std::pair<std::string, Value>> names;
  std::shared_ptr<const Scope> parent;

  const Value* Find(std::string_view name) const;
  void Set(std::string_view name, Value value);
};
using ScopePtr = std::shared_ptr<Scope>;

enum class Flow { kNormal, kBreak, kContinue };

class Run {
 public:
  /// What a rendering may use. A unit is about 20 ns or 8 bytes of memory, whichever is more: making 8 bytes of text costs
  /// one, an evaluation two, an element of a list eight, a loop's iteration sixteen.
  static constexpr uint64_t kMaxUnits = 24'000'000;
  static constexpr uint32_t kMaxRecursion = 1200;  // evaluations within each other
  static constexpr uint32_t kMaxDepth = 100;       // lists and dicts within each other
  static constexpr size_t kMaxTextBytes = 32 << 20;
  static constexpr Int kMaxRange = 100'000;        // as Jinja's sandbox

  /// `now`: seconds since 1970 for strftime_now.
  explicit Run(int64_t now) : now_(now) {}

  const Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }
  int64_t now() const { return now_; }
  /// Uses up units; false when none are left or the rendering failed before.
  bool Charge(uint64_t units);
  bool ChargeBytes(size_t bytes);
  /// The first failure is kept, with the line. Returns undefined.
  Value Fail(std::string_view message);
  /// The same for a bound of this class.
  Value Exhaust(std::string_view message);
  /// raise_exception: the message goes out as it is.
  Value Raise(std::string_view message);
  template <typename T, typename... Args>
  T* New(Args&&... args) {
    auto object = std::make_unique<T>(std::forward<Args>(args)...);
    T* pointer = object.get();
    Charge(4);
    objects_.push_back(std::move(object));
    return pointer;
  }

  void Execute(const Block& block, const ScopePtr& scope, Text& out, Flow& flow);
  Value Evaluate(const Expr& expr, const ScopePtr& scope);
  Value Call(const Value& callee, const Arguments& arguments);
  Value CallMacro(const MacroCode& code, const ScopePtr& defined_in, const Arguments& arguments);
  /// The body of a loop over `items`; `depth` counts `loop(...)` calls.
  Text ExecuteLoop(const Statement& loop, const ScopePtr& scope, const Value& items, uint32_t depth);
  Value ApplyFilter(std::string_view name, const Value& input, const Arguments& arguments);
  Value ApplyTest(std::string_view name, const Value& input, const Arguments& arguments);

  /// `value.name` and `value[key]`; undefined where there is none.
  Value Attribute(const Value& value, std::string_view name);
  Value Item(const Value& value, const Value& key);
  Value Slice(const Value& value, const Value& start, const Value& stop, const Value& step);
  /// A filter's `attribute=` argument: "a.b.0" or a number.
  Value AttributePath(const Value& value, const Value& path);

  /// Python's truth of a value.
  bool Truth(const Value& value);
  bool Equal(const Value& a, const Value& b);
  /// a < b as Python's; fails where Python has no order.
  bool Less(const Value& a, const Value& b);
  bool Contains(const Value& container, const Value& item);
  Value Binary(std::string_view op, const Value& a, const Value& b);
  /// Fails where Python could not iterate. A generator is used up.
  std::vector<Value> Iterate(const Value& value);
  /// len(); fails where there is none.
  size_t Length(const Value& value);

  Value MakeText(Text text);
  Value MakeList(std::vector<Value> items, List::Kind kind = List::Kind::kList);
  Value MakeDict(Dict dict);
  /// What a lazy filter gives. Where making the items failed, whoever takes them fails, and if nobody does nothing does:
  /// generators run late in Python.
  Value MakeGenerator(std::vector<Value> items);
  /// str(value).
  Text ToText(const Value& value);

  /// One more level of recursion, while it lives.
  struct Nested {
    explicit Nested(Run& r) : run(r) {
      if (++run.recursion_ > kMaxRecursion) run.Exhaust("maximum recursion depth exceeded");
    }
    ~Nested() { --run.recursion_; }
    Run& run;
  };

 private:
  void ExecuteStatement(const Statement& statement, const ScopePtr& scope, Text& out, Flow& flow);
  void ExecuteIf(const Statement& statement, const ScopePtr& scope, Text& out, Flow& flow);
  void ExecuteWith(const Statement& statement, const ScopePtr& scope, Text& out, Flow& flow);
  void ExecuteCall(const Statement& statement, const ScopePtr& scope, Text& out);
  Value Captured(const Block& block, const ScopePtr& scope, Flow& flow);
  void Output(const Value& value, Text& out);
  void Assign(const Expr& target, const Value& value, const ScopePtr& scope);

  Value Name(const Expr& expr, const ScopePtr& scope);
  Value DictLiteral(const Expr& expr, const ScopePtr& scope);
  Value Compare(const Expr& expr, const ScopePtr& scope);
  Value Concat(const Expr& expr, const ScopePtr& scope);
  Value Filter(const Expr& expr, const ScopePtr& scope);
  Value FilterChain(const Expr* chain, Value input, const ScopePtr& scope);
  Value EvaluateItem(const Expr& expr, const ScopePtr& scope);
  Value Conditional(const Expr& expr, const ScopePtr& scope);
  Value Unary(const Expr& expr, const ScopePtr& scope);
  bool EvaluateArguments(const Expr& expr, const ScopePtr& scope, Arguments& arguments);
  bool CompareWith(std::string_view op, const Value& a, const Value& b);
  bool EqualItems(const Value& a, const Value& b);

  Value Arithmetic(std::string_view op, const Value& a, const Value& b);
  Value IntegerArithmetic(std::string_view op, Int a, Int b, bool from_user);
  Value Power(const Value& a, const Value& b);
  Value Add(const Value& a, const Value& b);
  Value Repeat(const Value& sequence, const Value& count);

  const int64_t now_;
  Status status_;
  uint64_t units_ = kMaxUnits;
  uint32_t recursion_ = 0;
  bool exhausted_ = false;  // a bound was reached: no generator may hide that
  int line_ = 0;
  std::vector<std::unique_ptr<Object>> objects_;
};

}  // namespace baton::jinja
