// What templates can change or call: namespaces, loops, macros, cyclers, joiners, and the global functions.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/jinja/ast.h"
#include "model/jinja/run.h"

namespace baton::jinja {

class Namespace : public Object {
 public:
  std::string_view type_name() const override { return "Namespace"; }
  std::optional<Value> Attribute(std::string_view name) const override;
  void Set(std::string_view name, Value value);
  const std::vector<std::pair<std::string, Value>>& values() const { return values_; }

 private:
  std::vector<std::pair<std::string, Value>> values_;
};

class Macro : public Object {
 public:
  Macro(std::shared_ptr<const MacroCode> code, ScopePtr scope) : code_(std::move(code)), scope_(std::move(scope)) {}
  std::string_view type_name() const override { return "Macro"; }
  std::optional<Value> Attribute(std::string_view name) const override;
  bool callable() const override { return true; }
  Value Call(Run& run, const Arguments& arguments) override { return run.CallMacro(*code_, scope_, arguments); }

 private:
  const std::shared_ptr<const MacroCode> code_;
  const ScopePtr scope_;
};

/// The variable `loop`.
class LoopObject : public Object {
 public:
  LoopObject(const Statement& loop, ScopePtr scope, std::vector<Value> items, uint32_t depth)
      : loop_(loop), scope_(std::move(scope)), items_(std::move(items)), depth_(depth) {}
  std::string_view type_name() const override { return "LoopContext"; }
  std::optional<Value> Attribute(std::string_view name) const override;
  bool callable() const override { return loop_.recursive; }
  Value Call(Run& run, const Arguments& arguments) override;
  Value Cycle(Run& run, const Arguments& arguments) const;
  Value Changed(Run& run, const Arguments& arguments);
  size_t size() const { return items_.size(); }
  const Value& item(size_t i) const { return items_[i]; }
  void MoveTo(size_t i) { at_ = i; }

 private:
  const Statement& loop_;
  const ScopePtr scope_;
  const std::vector<Value> items_;
  const uint32_t depth_;
  size_t at_ = 0;
  std::vector<Value> last_changed_;
  bool has_last_ = false;
};

class Cycler : public Object {
 public:
  explicit Cycler(std::vector<Value> items) : items_(std::move(items)) {}
  std::string_view type_name() const override { return "Cycler"; }
  std::optional<Value> Attribute(std::string_view name) const override;
  Value Next();
  void Reset() { at_ = 0; }

 private:
  const std::vector<Value> items_;
  size_t at_ = 0;
};

class Joiner : public Object {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)) {}
  std::string_view type_name() const override { return "Joiner"; }
  bool callable() const override { return true; }
  Value Call(Run& run, const Arguments& arguments) override;

 private:
  const Value separator_;
  bool used_ = false;
};

class Function : public Object {
 public:
  using Body = Value (*)(Run& run, const Arguments& arguments);
  explicit Function(Body body) : body_(body) {}
  std::string_view type_name() const override { return "function"; }
  bool callable() const override { return true; }
  Value Call(Run& run, const Arguments& arguments) override { return body_(run, arguments); }

 private:
  const Body body_;
};

/// A method of an Object, such as loop.cycle.
Value CallObjectMethod(Run& run, Object& object, std::string_view name, const Arguments& arguments);

/// Defines range, dict, namespace, cycler, joiner, raise_exception and strftime_now.
void DefineGlobals(Run& run, Scope& scope);

}  // namespace baton::jinja
