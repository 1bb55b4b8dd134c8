#include "model/jinja/objects.h"

#include <algorithm>
#include <ctime>

#include "model/jinja/parameters.h"

namespace baton::jinja {
namespace {

Value MakeNamespace(Run& run, const Arguments& arguments) {
  auto* space = run.New<Namespace>();
  for (const Value& value : arguments.positional) {
    if (!value.IsDict()) return run.Fail("namespace() takes a dict and keyword arguments");
    for (const auto& [key, item] : value.dict().items) space->Set(run.ToText(key).bytes, item);
  }
  for (const auto& [name, value] : arguments.named) space->Set(name, value);
  return Value::Of(space);
}

Value MakeDict(Run& run, const Arguments& arguments) {
  Dict dict;
  for (const Value& value : arguments.positional) {
    if (value.IsDict()) {
      for (const auto& [key, item] : value.dict().items) dict.Set(key, item);
      continue;
    }
    for (const Value& pair : run.Iterate(value)) {
      const std::vector<Value> parts = run.Iterate(pair);
      if (parts.size() != 2 || !dict.Set(parts[0], parts[1])) return run.Fail("dict() takes pairs of a key and a value");
    }
  }
  for (const auto& [name, value] : arguments.named) dict.Set(Value::String(name), value);
  return run.MakeDict(std::move(dict));
}

Value Range(Run& run, const Arguments& arguments) {
  const Parameters p(run, "range", arguments, {"start", "stop", "step"}, 1);
  if (!p.ok()) return Value();
  const bool one = p.Get(1) == nullptr;
  const Int start = one ? 0 : p.IntegerOr(0, 0), stop = p.IntegerOr(one ? 0 : 1, 0), step = p.IntegerOr(2, 1);
  if (step == 0) return run.Fail("range() arg 3 must not be zero");
  if (!run.ok()) return Value();
  const Int limit = Int{1} << 100;  // far beyond any range that is allowed, and no sum overflows
  if (std::max({start, stop, step}) > limit || std::min({start, stop, step}) < -limit) return run.Fail("Range too big.");
  const Int count = step > 0 ? (stop - start + step - 1) / step : (start - stop - step - 1) / -step;
  if (count > Run::kMaxRange) return run.Fail(fmt::format("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", Run::kMaxRange));
  List list;
  list.kind = List::Kind::kRange;
  list.range = step == 1 ? fmt::format("range({}, {})", start, stop) : fmt::format("range({}, {}, {})", start, stop, step);
  if (!run.Charge(count > 0 ? 8 * static_cast<uint64_t>(count) : 0)) return Value();
  for (Int i = 0; i < count; ++i) list.items.push_back(Value::Integer(start + i * step));
  return Value::Of(std::move(list));
}

Value MakeCycler(Run& run, const Arguments& arguments) {
  if (arguments.positional.empty()) return run.Fail("cycler() needs at least one item");
  return Value::Of(run.New<Cycler>(arguments.positional));
}

Value MakeJoiner(Run& run, const Arguments& arguments) {
  const Parameters p(run, "joiner", arguments, {"sep"});
  return p.ok() ? Value::Of(run.New<Joiner>(p.Get(0) != nullptr ? *p.Get(0) : Value::String(", "))) : Value();
}

Value RaiseException(Run& run, const Arguments& arguments) {
  const Parameters p(run, "raise_exception", arguments, {"message"}, 1);
  return p.ok() ? run.Raise(run.ToText(*p.Get(0)).bytes) : Value();
}

Value StrftimeNow(Run& run, const Arguments& arguments) {
  const Parameters p(run, "strftime_now", arguments, {"format"}, 1);
  const Text format = p.ok() ? p.TextOr(0, "") : Text();
  const auto seconds = static_cast<time_t>(run.now());
  tm parts{};
  if (!run.ok() || gmtime_r(&seconds, &parts) == nullptr) return run.Fail("strftime_now has no time");
  std::string out;
  for (size_t i = 0; i < format.bytes.size() && run.ChargeBytes(16); ++i) {
    const char c = format.bytes[i];
    if (c != '%' || i + 1 >= format.bytes.size()) {
      out += c;
      continue;
    }
    std::string directive = {'%', format.bytes[++i]};
    if (directive[1] == '-' && i + 1 < format.bytes.size()) directive += format.bytes[++i];  // no padding, as the GNU library does
    if (directive == "%f") out += "000000";
    else if (directive == "%z" || directive == "%Z") continue;  // the time has no zone, as Python's datetime.now()
    else {
      char buffer[128];
      out.append(buffer, std::strftime(buffer, sizeof(buffer), directive.c_str(), &parts));
    }
  }
  return run.MakeText(Text(out));
}

}  // namespace

Value Object::Call(Run& run, const Arguments&) { return run.Fail(fmt::format("'{}' object is not callable", type_name())); }

std::optional<Value> Namespace::Attribute(std::string_view name) const {
  const auto it = std::find_if(values_.begin(), values_.end(), [&](const auto& entry) { return entry.first == name; });
  return it == values_.end() ? std::nullopt : std::optional<Value>(it->second);
}

void Namespace::Set(std::string_view name, Value value) {
  const auto it = std::find_if(values_.begin(), values_.end(), [&](const auto& entry) { return entry.first == name; });
  if (it != values_.end()) it->second = std::move(value);
  else values_.emplace_back(name, std::move(value));
}

std::optional<Value> Macro::Attribute(std::string_view name) const {
  if (name == "name") return Value::String(code_->name);
  if (name == "arguments") {
    List list;
    list.kind = List::Kind::kTuple;
    for (const std::string& parameter : code_->parameters) list.items.push_back(Value::String(parameter));
    return Value::Of(std::move(list));
  }
  if (name == "catch_kwargs") return Value::Bool(code_->uses_kwargs);
  if (name == "catch_varargs") return Value::Bool(code_->uses_varargs);
  if (name == "caller") return Value::Bool(code_->uses_caller);
  return std::nullopt;
}

std::optional<Value> LoopObject::Attribute(std::string_view name) const {
  const auto number = [](size_t v) { return Value::Integer(static_cast<Int>(v)); };
  if (name == "index") return number(at_ + 1);
  if (name == "index0") return number(at_);
  if (name == "revindex") return number(items_.size() - at_);
  if (name == "revindex0") return number(items_.size() - at_ - 1);
  if (name == "first") return Value::Bool(at_ == 0);
  if (name == "last") return Value::Bool(at_ + 1 >= items_.size());
  if (name == "length") return number(items_.size());
  if (name == "depth") return number(depth_ + 1);
  if (name == "depth0") return number(depth_);
  if (name == "previtem") return at_ > 0 ? items_[at_ - 1] : Value::Undefined("there is no previous item");
  if (name == "nextitem") return at_ + 1 < items_.size() ? items_[at_ + 1] : Value::Undefined("there is no next item");
  if (name == "cycle" || name == "changed") return Value::Of(Method{Value::Of(const_cast<LoopObject*>(this)), std::string(name)});
  return std::nullopt;
}

Value LoopObject::Call(Run& run, const Arguments& arguments) {
  const Parameters p(run, "loop", arguments, {"iterable"}, 1);
  return p.ok() ? run.MakeText(run.ExecuteLoop(loop_, scope_, *p.Get(0), depth_ + 1)) : Value();
}

Value LoopObject::Cycle(Run& run, const Arguments& arguments) const {
  if (arguments.positional.empty()) return run.Fail("no items for cycling given");
  return arguments.positional[at_ % arguments.positional.size()];
}

Value LoopObject::Changed(Run& run, const Arguments& arguments) {
  bool same = has_last_ && last_changed_.size() == arguments.positional.size();
  for (size_t i = 0; same && i < last_changed_.size(); ++i) same = run.Equal(last_changed_[i], arguments.positional[i]);
  last_changed_ = arguments.positional;
  has_last_ = true;
  return Value::Bool(!same);
}

std::optional<Value> Cycler::Attribute(std::string_view name) const {
  if (name == "current") return items_[at_];
  if (name == "next" || name == "reset") return Value::Of(Method{Value::Of(const_cast<Cycler*>(this)), std::string(name)});
  return std::nullopt;
}

Value Cycler::Next() {
  const Value value = items_[at_];
  at_ = (at_ + 1) % items_.size();
  return value;
}

Value Joiner::Call(Run&, const Arguments&) { return std::exchange(used_, true) ? separator_ : Value::String(""); }

Value CallObjectMethod(Run& run, Object& object, std::string_view name, const Arguments& arguments) {
  if (auto* loop = dynamic_cast<LoopObject*>(&object)) return name == "cycle" ? loop->Cycle(run, arguments) : loop->Changed(run, arguments);
  if (auto* cycler = dynamic_cast<Cycler*>(&object)) {
    if (name == "next") return cycler->Next();
    cycler->Reset();
    return Value::None();
  }
  return run.Fail(fmt::format("'{}' object has no method '{}'", object.type_name(), name));
}

void DefineGlobals(Run& run, Scope& scope) {
  const std::pair<std::string_view, Function::Body> functions[] = {
      {"range", Range}, {"dict", MakeDict}, {"namespace", MakeNamespace}, {"cycler", MakeCycler}, {"joiner", MakeJoiner},
      {"raise_exception", RaiseException}, {"strftime_now", StrftimeNow}};
  for (const auto& [name, body] : functions) scope.Set(name, Value::Of(run.New<Function>(body)));
}

}  // namespace baton::jinja
