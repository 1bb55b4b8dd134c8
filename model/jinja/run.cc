// Bounds, errors, statements.
#include "model/jinja/run.h"

#include <algorithm>

#include "model/jinja/objects.h"

namespace baton::jinja {

const Value* Scope::Find(std::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
    for (const auto& [key, value] : scope->names) {
      if (key == name) return &value;
    }
  }
  return nullptr;
}

void Scope::Set(std::string_view name, Value value) {
  for (auto& [key, old] : names) {
    if (key != name) continue;
    old = std::move(value);
    return;
  }
  names.emplace_back(name, std::move(value));
}

bool Run::Charge(uint64_t units) {
  if (!ok()) return false;
  if (units > units_) {
    Exhaust("the chat template does too much work");
    return false;
  }
  units_ -= units;
  return true;
}

bool Run::ChargeBytes(size_t bytes) {
  if (bytes > kMaxTextBytes) Fail("the chat template makes a text that is too long");
  return Charge(1 + bytes / 8);
}

Value Run::Fail(std::string_view message) {
  if (ok()) status_ = line_ > 0 ? InvalidError("chat template, line {}: {}", line_, message) : InvalidError("chat template: {}", message);
  return Value();
}

Value Run::Exhaust(std::string_view message) {
  exhausted_ = true;
  return Fail(message);
}

Value Run::Raise(std::string_view message) {
  if (ok()) status_ = Status(StatusCode::kInvalid, std::string(message));
  return Value();
}

Value Run::MakeText(Text text) {
  if (!ChargeBytes(text.bytes.size())) return Value();
  return Value::String(std::move(text));
}

Value Run::MakeList(std::vector<Value> items, List::Kind kind) {
  List list;
  list.kind = kind;
  for (const Value& item : items) list.depth = std::max(list.depth, 1 + Depth(item));
  if (list.depth > kMaxDepth) return Fail("a list is nested too deep");
  if (!Charge(1 + 8 * items.size())) return Value();
  list.items = std::move(items);
  return Value::Of(std::move(list));
}

Value Run::MakeGenerator(std::vector<Value> items) {
  if (ok() || exhausted_) return MakeList(std::move(items), List::Kind::kGenerator);
  List list;
  list.kind = List::Kind::kGenerator;
  list.failure = std::exchange(status_, OkStatus());
  return Value::Of(std::move(list));
}

Value Run::MakeDict(Dict dict) {
  if (dict.depth > kMaxDepth) return Fail("a dict is nested too deep");
  if (!Charge(1 + 32 * dict.items.size())) return Value();
  return Value::Of(std::move(dict));
}

void Run::Output(const Value& value, Text& out) {
  const Text text = ToText(value);
  if (out.bytes.size() + text.bytes.size() > kMaxTextBytes) Fail("the chat template's output is too long");
  if (ChargeBytes(text.bytes.size())) out.Append(text);
}

void Run::Execute(const Block& block, const ScopePtr& scope, Text& out, Flow& flow) {
  const Nested nested(*this);
  for (const Statement& statement : block) {
    if (!Charge(2) || flow != Flow::kNormal) return;
    line_ = statement.line;
    ExecuteStatement(statement, scope, out, flow);
  }
}

Value Run::Captured(const Block& block, const ScopePtr& scope, Flow& flow) {
  const auto inner = std::make_shared<Scope>();
  inner->parent = scope;
  Text text;
  Execute(block, inner, text, flow);
  return Value::String(std::move(text));
}

void Run::ExecuteStatement(const Statement& s, const ScopePtr& scope, Text& out, Flow& flow) {
  switch (s.kind) {
    case Statement::Kind::kText:
      if (out.bytes.size() > kMaxTextBytes) Fail("the chat template's output is too long");
      if (ChargeBytes(s.text.bytes.size())) out.Append(s.text);
      break;
    case Statement::Kind::kOutput: Output(Evaluate(*s.expr, scope), out); break;
    case Statement::Kind::kIf: ExecuteIf(s, scope, out, flow); break;
    case Statement::Kind::kFor: out.Append(ExecuteLoop(s, scope, Evaluate(*s.expr, scope), 0)); break;
    case Statement::Kind::kSet: Assign(*s.target, Evaluate(*s.expr, scope), scope); break;
    case Statement::Kind::kSetBlock: {
      const Value body = Captured(s.body, scope, flow);
      if (flow != Flow::kNormal) break;  // left by `break` or `continue`: what was captured is lost
      Assign(*s.target, FilterChain(s.expr.get(), body, scope), scope);
      break;
    }
    case Statement::Kind::kMacro: scope->Set(s.macro->name, Value::Of(New<Macro>(s.macro, scope))); break;
    case Statement::Kind::kCall: ExecuteCall(s, scope, out); break;
    case Statement::Kind::kFilter: {
      const Value body = Captured(s.body, scope, flow);
      if (flow != Flow::kNormal) break;
      const Value filtered = FilterChain(s.expr.get(), body, scope);
      if (ok() && !filtered.IsText()) Fail(fmt::format("a filter block must give text, not '{}'", TypeName(filtered)));
      Output(filtered, out);
      break;
    }
    case Statement::Kind::kWith: ExecuteWith(s, scope, out, flow); break;
    case Statement::Kind::kScope: Output(Captured(s.body, scope, flow), out); break;
    case Statement::Kind::kBreak: flow = Flow::kBreak; break;
    case Statement::Kind::kContinue: flow = Flow::kContinue; break;
  }
}

void Run::ExecuteIf(const Statement& s, const ScopePtr& scope, Text& out, Flow& flow) {
  for (const auto& [condition, body] : s.branches) {
    if (Truth(Evaluate(*condition, scope))) return Execute(body, scope, out, flow);
    if (!ok()) return;
  }
  Execute(s.else_body, scope, out, flow);
}

void Run::ExecuteWith(const Statement& s, const ScopePtr& scope, Text& out, Flow& flow) {
  const auto inner = std::make_shared<Scope>();
  inner->parent = scope;
  for (size_t i = 0; i < s.targets.size(); ++i) Assign(*s.targets[i], Evaluate(*s.values[i], scope), inner);
  Execute(s.body, inner, out, flow);
}

void Run::ExecuteCall(const Statement& s, const ScopePtr& scope, Text& out) {
  Arguments arguments;
  const Value callee = Evaluate(*s.expr->children[0], scope);
  if (!EvaluateArguments(*s.expr, scope, arguments)) return;
  arguments.named.emplace_back("caller", Value::Of(New<Macro>(s.macro, scope)));
  Output(Call(callee, arguments), out);
}

Text Run::ExecuteLoop(const Statement& s, const ScopePtr& scope, const Value& items, uint32_t depth) {
  const Nested nested(*this);
  std::vector<Value> all = Iterate(items);
  if (s.condition != nullptr) {
    std::vector<Value> kept;
    for (const Value& item : all) {
      const auto inner = std::make_shared<Scope>();
      inner->parent = scope;
      Assign(*s.target, item, inner);
      if (!Charge(16)) break;
      if (Truth(Evaluate(*s.condition, inner))) kept.push_back(item);
    }
    all = std::move(kept);
  }
  Text out;
  LoopObject* loop = New<LoopObject>(s, scope, std::move(all), depth);
  bool completed = false;  // an iteration that `continue` or `break` cut short does not count: Jinja's behaviour
  for (size_t i = 0; Charge(16) && i < loop->size(); ++i) {
    loop->MoveTo(i);
    const auto inner = std::make_shared<Scope>();
    inner->parent = scope;
    inner->names.emplace_back("loop", Value::Of(loop));
    Assign(*s.target, loop->item(i), inner);
    Flow flow = Flow::kNormal;
    Execute(s.body, inner, out, flow);
    if (flow == Flow::kBreak) break;
    completed = completed || flow == Flow::kNormal;
    if (out.bytes.size() > kMaxTextBytes) Fail("the chat template's output is too long");
  }
  Flow flow = Flow::kNormal;
  if (ok() && !completed && !s.else_body.empty()) {
    const auto inner = std::make_shared<Scope>();
    inner->parent = scope;
    Execute(s.else_body, inner, out, flow);
  }
  return out;
}

void Run::Assign(const Expr& target, const Value& value, const ScopePtr& scope) {
  if (!ok()) return;
  if (target.kind == Expr::Kind::kName) return scope->Set(target.name, value);
  if (target.kind == Expr::Kind::kAttribute) {
    const Value* object = scope->Find(target.children[0]->name);
    auto* space = object == nullptr || object->kind() != Value::Kind::kObject ? nullptr : dynamic_cast<Namespace*>(object->object());
    if (space == nullptr) {
      Fail("cannot assign attribute on non-namespace object");
      return;
    }
    return space->Set(target.name, value);
  }
  const std::vector<Value> values = Iterate(value);
  if (!ok()) return;
  const size_t want = target.children.size();
  if (values.size() < want) {
    Fail(fmt::format("not enough values to unpack (expected {}, got {})", want, values.size()));
  } else if (values.size() > want) {
    Fail(fmt::format("too many values to unpack (expected {})", want));
  } else {
    for (size_t i = 0; i < want; ++i) Assign(*target.children[i], values[i], scope);
  }
}

Value Run::CallMacro(const MacroCode& code, const ScopePtr& defined_in, const Arguments& arguments) {
  const Nested nested(*this);
  const auto scope = std::make_shared<Scope>();
  scope->parent = defined_in;
  std::vector<Value> extra(arguments.positional.begin() + static_cast<std::ptrdiff_t>(std::min(arguments.positional.size(), code.parameters.size())),
                           arguments.positional.end());
  if (!extra.empty() && !code.uses_varargs) {
    return Fail(fmt::format("macro '{}' takes not more than {} argument(s)", code.name, code.parameters.size()));
  }
  Dict rest;
  for (const auto& [name, value] : arguments.named) {
    const auto parameter = std::find(code.parameters.begin(), code.parameters.end(), name);
    if (parameter != code.parameters.end()) {
      if (static_cast<size_t>(parameter - code.parameters.begin()) < arguments.positional.size()) {
        return Fail(fmt::format("macro '{}' got two values for '{}'", code.name, name));
      }
      scope->Set(name, value);
    } else if (name == "caller" && code.uses_caller) {
      scope->Set(name, value);
    } else if (name == "caller" || !code.uses_kwargs) {
      return Fail(fmt::format("macro '{}' takes no keyword argument '{}'", code.name, name));
    } else {
      rest.Set(Value::String(name), value);
    }
  }
  const auto is_set = [&](std::string_view name) {
    return std::any_of(scope->names.begin(), scope->names.end(), [&](const auto& entry) { return entry.first == name; });
  };
  if (code.uses_caller && !is_set("caller")) scope->Set("caller", Value::Undefined("No caller defined"));
  for (size_t i = 0; i < code.parameters.size(); ++i) {
    const std::string& name = code.parameters[i];
    const size_t first_default = code.parameters.size() - code.defaults.size();
    if (i < arguments.positional.size()) {
      scope->Set(name, arguments.positional[i]);
    } else if (!is_set(name)) {
      scope->Set(name, i < first_default ? Value::Undefined("parameter '" + name + "' was not provided")
                                         : Evaluate(*code.defaults[i - first_default], scope));
    }
  }
  if (code.uses_varargs) scope->Set("varargs", MakeList(std::move(extra), List::Kind::kTuple));
  if (code.uses_kwargs) scope->Set("kwargs", MakeDict(std::move(rest)));
  Text out;
  Flow flow = Flow::kNormal;
  const int line = line_;
  Execute(code.body, scope, out, flow);
  if (ok()) line_ = line;
  return MakeText(std::move(out));
}

}  // namespace baton::jinja
