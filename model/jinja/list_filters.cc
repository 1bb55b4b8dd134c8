// Filters over lists, dicts and generators.
#include <algorithm>
#include <iterator>
#include <set>

#include "model/jinja/filters.h"
#include "model/jinja/methods.h"
#include "model/jinja/parameters.h"
#include "model/jinja/unicode.h"

namespace baton::jinja {
namespace {

/// What `sort`, `unique`, `min`, `max` and `groupby` compare: the item or its attribute, in lower case unless told otherwise.
Value CompareKey(Run& run, const Value& item, const Value* attribute, bool case_sensitive) {
  const Value key = attribute == nullptr ? item : run.AttributePath(item, *attribute);
  return key.IsText() && !case_sensitive ? run.MakeText(MapCase(key.text(), Case::kLower)) : key;
}

Value First(Run& run, const Value& v) {
  if (v.IsList() && v.list().kind == List::Kind::kGenerator) {  // takes no more than it needs
    const List& list = v.list();
    if (!list.failure.ok()) return run.Iterate(v), Value();
    return list.consumed < list.items.size() ? list.items[list.consumed++] : Value::Undefined("No first item, sequence was empty.");
  }
  if (v.IsText()) return v.text().bytes.empty() ? Value::Undefined("No first item, sequence was empty.") : run.Item(v, Value::Integer(0));
  const std::vector<Value> items = run.Iterate(v);
  return items.empty() ? Value::Undefined("No first item, sequence was empty.") : items.front();
}

Value Last(Run& run, const Value& v) {
  if (v.IsList() && v.list().kind == List::Kind::kGenerator) return run.Fail("'generator' object is not reversible");
  if (v.IsText()) return v.text().bytes.empty() ? Value::Undefined("No last item, sequence was empty.") : run.Item(v, Value::Integer(-1));
  const std::vector<Value> items = run.Iterate(v);
  return items.empty() ? Value::Undefined("No last item, sequence was empty.") : items.back();
}

Value LengthFilter(Run& run, const Value& v) { return Value::Integer(static_cast<Int>(run.Length(v))); }
Value ToList(Run& run, const Value& v) { return run.MakeList(run.Iterate(v)); }

Value Join(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "join", a, {"d", "attribute"});
  if (!p.ok()) return Value();
  const Text separator = p.Get(0) != nullptr ? run.ToText(*p.Get(0)) : Text();
  Text out;
  bool first = true;
  for (const Value& item : run.Iterate(v)) {
    const Text text = run.ToText(p.Get(1) != nullptr ? run.AttributePath(item, *p.Get(1)) : item);
    if (!run.ChargeBytes(text.bytes.size() + separator.bytes.size())) return Value();
    if (!first) out.Append(separator);
    first = false;
    out.Append(text);
  }
  return run.MakeText(std::move(out));
}

Value Reverse(Run& run, const Value& v) {
  if (v.IsText()) return run.Slice(v, Value::None(), Value::None(), Value::Integer(-1));
  std::vector<Value> items = run.Iterate(v);
  std::reverse(items.begin(), items.end());
  return run.MakeList(std::move(items), List::Kind::kGenerator);  // not a late one: what has no end fails at once
}

/// Sorted by key; equal ones keep their order, in reverse too.
std::vector<Value> SortBy(Run& run, std::vector<std::pair<Value, Value>> keyed, bool reverse) {
  if (reverse) std::reverse(keyed.begin(), keyed.end());
  // A merge sort: unlike std::sort it stays in bounds when the comparison stops making sense after a failure.
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& x, const auto& y) { return run.ok() && run.Less(x.first, y.first); });
  if (reverse) std::reverse(keyed.begin(), keyed.end());
  std::vector<Value> items;
  for (auto& entry : keyed) items.push_back(std::move(entry.second));
  return items;
}

/// "a,b" sorts by a, then b. Always a list, as Jinja's: equal items then need no order.
Value SortKey(Run& run, const Value& item, const Value* attribute, bool case_sensitive) {
  std::vector<Value> keys;
  if (attribute == nullptr || !attribute->IsText()) return run.MakeList({CompareKey(run, item, attribute, case_sensitive)});
  const Value parts = CallMethod(run, *attribute, "split", {{Value::String(",")}, {}});
  for (const Value& part : run.Iterate(parts)) keys.push_back(CompareKey(run, item, &part, case_sensitive));
  return run.MakeList(std::move(keys));
}

Value Sort(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "sort", a, {"reverse", "case_sensitive", "attribute"});
  if (!p.ok()) return Value();
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : run.Iterate(v)) keyed.emplace_back(SortKey(run, item, p.Get(2), p.TruthOr(1, false)), item);
  return run.MakeList(SortBy(run, std::move(keyed), p.TruthOr(0, false)));
}

Value Unique(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "unique", a, {"case_sensitive", "attribute"});
  if (!p.ok()) return Value();
  std::set<std::string> seen;
  std::vector<Value> items;
  for (const Value& item : run.Iterate(v)) {
    const Value key = CompareKey(run, item, p.Get(1), p.TruthOr(0, false));
    const auto hash = HashKey(key);
    if (!hash) return run.Fail(fmt::format("unhashable type: '{}'", TypeName(key)));
    if (seen.insert(*hash).second) items.push_back(item);
  }
  return run.MakeGenerator(std::move(items));
}

template <bool kMax>
Value Extreme(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, kMax ? "max" : "min", a, {"case_sensitive", "attribute"});
  if (!p.ok()) return Value();
  Value best = Value::Undefined("No aggregated item, sequence was empty."), best_key;
  bool any = false;
  for (const Value& item : run.Iterate(v)) {
    const Value key = CompareKey(run, item, p.Get(1), p.TruthOr(0, false));
    if (any && !(kMax ? run.Less(best_key, key) : run.Less(key, best_key))) continue;
    best = item;
    best_key = key;
    any = true;
  }
  return best;
}

Value Sum(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "sum", a, {"attribute", "start"});
  if (!p.ok()) return Value();
  Value total = p.Get(1) != nullptr ? *p.Get(1) : Value::Integer(0);
  if (total.IsText()) return run.Fail("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : run.Iterate(v)) total = run.Binary("+", total, p.Get(0) != nullptr ? run.AttributePath(item, *p.Get(0)) : item);
  return total;
}

Value Map(Run& run, const Value& v, const Arguments& a) {
  std::vector<Value> items;
  if (a.positional.empty()) {
    const Parameters p(run, "map", a, {"attribute", "default"}, 1);
    if (!p.ok()) return Value();
    for (const Value& item : run.Iterate(v)) {
      Value found = run.AttributePath(item, *p.Get(0));
      items.push_back(found.IsUndefined() && p.Get(1) != nullptr ? *p.Get(1) : found);
    }
    return run.MakeGenerator(std::move(items));
  }
  const std::string name = run.ToText(a.positional[0]).bytes;
  Arguments rest = a;
  rest.positional.erase(rest.positional.begin());
  for (const Value& item : run.Iterate(v)) items.push_back(run.ApplyFilter(name, item, rest));
  return run.MakeGenerator(std::move(items));
}

/// select, reject, selectattr, rejectattr.
template <bool kKeep, bool kAttribute>
Value Select(Run& run, const Value& v, const Arguments& a) {
  Arguments rest = a;
  Value attribute, test;
  const auto take = [&](Value& out) {
    if (rest.positional.empty()) return false;
    out = rest.positional.front();
    rest.positional.erase(rest.positional.begin());
    return true;
  };
  if (kAttribute && !take(attribute)) return run.Fail("missing parameter for attribute name");
  const bool tested = take(test);
  const std::string name = tested ? run.ToText(test).bytes : "";
  std::vector<Value> items;
  for (const Value& item : run.Iterate(v)) {
    const Value subject = kAttribute ? run.AttributePath(item, attribute) : item;
    const bool passes = run.Truth(tested ? run.ApplyTest(name, subject, rest) : subject);
    if (passes == kKeep) items.push_back(item);
  }
  return run.MakeGenerator(std::move(items));
}

Value GroupBy(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "groupby", a, {"attribute", "default", "case_sensitive"}, 1);
  if (!p.ok()) return Value();
  const auto key_of = [&](const Value& item) {
    const Value key = run.AttributePath(item, *p.Get(0));
    return key.IsUndefined() && p.Get(1) != nullptr ? *p.Get(1) : key;
  };
  const bool case_sensitive = p.TruthOr(2, false);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : run.Iterate(v)) keyed.emplace_back(CompareKey(run, key_of(item), nullptr, case_sensitive), item);
  std::vector<Value> groups, members;
  Value current;
  const auto close = [&] {
    if (members.empty()) return;
    const Value grouper = key_of(members.front());
    List group;
    group.kind = List::Kind::kTuple;
    group.group = true;
    group.items = {grouper, run.MakeList(std::move(members))};
    group.depth = 1 + std::max(Depth(group.items[0]), Depth(group.items[1]));
    groups.push_back(Value::Of(std::move(group)));
    members.clear();
  };
  for (const Value& item : SortBy(run, std::move(keyed), false)) {
    const Value key = CompareKey(run, key_of(item), nullptr, case_sensitive);
    if (!members.empty() && !run.Equal(key, current)) close();
    current = key;
    members.push_back(item);
  }
  close();
  return run.MakeList(std::move(groups));
}

Value Batch(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "batch", a, {"linecount", "fill_with"}, 1);
  if (!p.ok()) return Value();
  const Int size = p.IntegerOr(0, 1);
  if (size < 1) return run.Fail("batch() needs a positive size");
  std::vector<Value> batches, line;
  for (const Value& item : run.Iterate(v)) {
    if (static_cast<Int>(line.size()) == size) batches.push_back(run.MakeList(std::exchange(line, {})));
    line.push_back(item);
  }
  if (!line.empty()) {
    if (p.Get(1) != nullptr && !p.Get(1)->IsNone()) {
      while (static_cast<Int>(line.size()) < size && run.Charge(8)) line.push_back(*p.Get(1));
    }
    batches.push_back(run.MakeList(std::move(line)));
  }
  return run.MakeGenerator(std::move(batches));
}

Value SliceFilter(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "slice", a, {"slices", "fill_with"}, 1);
  if (!p.ok()) return Value();
  const std::vector<Value> items = run.Iterate(v);
  const Int slices = p.IntegerOr(0, 1);
  if (slices < 1 || slices > Run::kMaxRange) return run.Fail("slice() needs a positive number of slices");
  const size_t count = static_cast<size_t>(slices), each = items.size() / count, longer = items.size() % count;
  std::vector<Value> out;
  size_t at = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t size = each + (i < longer ? 1 : 0);
    std::vector<Value> part(items.begin() + static_cast<std::ptrdiff_t>(at), items.begin() + static_cast<std::ptrdiff_t>(at + size));
    at += size;
    if (p.Get(1) != nullptr && !p.Get(1)->IsNone() && i >= longer) part.push_back(*p.Get(1));
    out.push_back(run.MakeList(std::move(part)));
  }
  return run.MakeGenerator(std::move(out));
}

Value DictSort(Run& run, const Value& v, const Arguments& a) {
  const Parameters p(run, "dictsort", a, {"case_sensitive", "by", "reverse"});
  if (!p.ok()) return Value();
  if (!v.IsDict()) return run.Fail(v.IsUndefined() ? v.message() : fmt::format("'{}' object has no attribute 'items'", TypeName(v)));
  const std::string by = p.TextOr(1, "key").bytes;
  if (by != "key" && by != "value") return run.Fail("You can only sort by either \"key\" or \"value\"");
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : v.dict().items) {
    if (!run.Charge(2)) return Value();
    keyed.emplace_back(CompareKey(run, by == "key" ? key : value, nullptr, p.TruthOr(0, false)), run.MakeList({key, value}, List::Kind::kTuple));
  }
  return run.MakeList(SortBy(run, std::move(keyed), p.TruthOr(2, false)));
}

Value Items(Run& run, const Value& v) {
  if (v.IsUndefined()) return run.MakeGenerator({});
  if (!v.IsDict()) run.Fail("Can only get item pairs from a mapping.");
  return run.MakeGenerator(v.IsDict() ? run.Iterate(CallMethod(run, v, "items", {})) : std::vector<Value>());
}

constexpr FilterEntry kFilters[] = {
    {"first", Plain<First>}, {"last", Plain<Last>}, {"length", Plain<LengthFilter>}, {"count", Plain<LengthFilter>}, {"list", Plain<ToList>},
    {"reverse", Plain<Reverse>}, {"join", Join},
    {"sort", Sort}, {"unique", Unique}, {"min", Extreme<false>}, {"max", Extreme<true>}, {"sum", Sum}, {"map", Map},
    {"select", Select<true, false>}, {"reject", Select<false, false>}, {"selectattr", Select<true, true>}, {"rejectattr", Select<false, true>},
    {"groupby", GroupBy}, {"batch", Batch}, {"slice", SliceFilter}, {"dictsort", DictSort}, {"items", Plain<Items>}};

}  // namespace

FilterBody FindListFilter(std::string_view name) {
  const auto it = std::find_if(std::begin(kFilters), std::end(kFilters), [&](const FilterEntry& entry) { return entry.name == name; });
  return it == std::end(kFilters) ? nullptr : it->body;
}

}  // namespace baton::jinja
