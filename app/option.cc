// One option: its text, type, range; and the nearest name for a misspelt one.
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <type_traits>

#include "app/config.h"

namespace baton {
namespace {

std::vector<std::string> SplitList(const std::string& text) {
  std::vector<std::string> items;
  for (size_t begin = 0; begin <= text.size() && !text.empty();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    std::string item = text.substr(begin, end - begin);
    item.erase(0, item.find_first_not_of(" \t") == std::string::npos ? item.size() : item.find_first_not_of(" \t"));
    item.erase(item.find_last_not_of(" \t") + 1);
    if (!item.empty()) items.push_back(std::move(item));
    begin = end + 1;
  }
  return items;
}

std::string Allowed(const Option& o) {
  if (!o.choices.empty()) return fmt::format("one of: {}", fmt::join(o.choices, ", "));
  const std::string unit = o.unit.empty() ? "" : " " + o.unit;
  if (o.min == 0 && o.max == 0) return fmt::format("a {}{}", OptionTypeName(o), unit);
  return fmt::format("a {} from {:.10g} to {:.10g}{}", OptionTypeName(o), o.min, o.max, unit);
}

template <typename T>
Status SetNumber(const Option& o, const std::string& text, T* target) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  bool good = error == std::errc() && end == text.data() + text.size();
  const double number = static_cast<double>(value);
  if constexpr (std::is_floating_point_v<T>) good = good && std::isfinite(value);
  if (o.min != 0 || o.max != 0) good = good && number >= o.min && number <= o.max;
  if (!good || number < 0) return InvalidError("{}: \"{}\" is not allowed; give {}", o.key, text, Allowed(o));
  *target = value;
  return OkStatus();
}

size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, change});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string OptionText(const Option& o) {
  return std::visit(
      [](auto* value) -> std::string {
        using T = std::remove_pointer_t<decltype(value)>;
        if constexpr (std::is_same_v<T, bool>) return *value ? "true" : "false";
        else if constexpr (std::is_same_v<T, std::string>) return *value;
        else if constexpr (std::is_same_v<T, std::vector<std::string>>) return fmt::format("{}", fmt::join(*value, ", "));
        else return fmt::format("{}", *value);
      },
      o.target);
}

const char* OptionTypeName(const Option& o) {
  static constexpr const char* kNames[] = {"boolean", "integer", "integer", "number", "string", "list"};
  return kNames[o.target.index()];
}

Status SetOption(const Option& o, const std::string& text) {
  const auto chosen = [&](const std::string& item) {
    return o.choices.empty() || std::find(o.choices.begin(), o.choices.end(), item) != o.choices.end();
  };
  if (auto* flag = std::get_if<bool*>(&o.target)) {
    const bool yes = text == "true" || text == "yes" || text == "on" || text == "1";
    if (!yes && text != "false" && text != "no" && text != "off" && text != "0") {
      return InvalidError("{}: \"{}\" is not allowed; give true or false", o.key, text);
    }
    **flag = yes;
    return OkStatus();
  }
  if (auto* number = std::get_if<uint32_t*>(&o.target)) return SetNumber(o, text, *number);
  if (auto* number = std::get_if<uint64_t*>(&o.target)) return SetNumber(o, text, *number);
  if (auto* number = std::get_if<double*>(&o.target)) return SetNumber(o, text, *number);
  if (auto* list = std::get_if<std::vector<std::string>*>(&o.target)) {
    std::vector<std::string> items = SplitList(text);
    for (const std::string& item : items) {
      if (!chosen(item)) return InvalidError("{}: \"{}\" is not allowed; give {}", o.key, item, Allowed(o));
    }
    **list = std::move(items);
    return OkStatus();
  }
  if (!chosen(text)) return InvalidError("{}: \"{}\" is not allowed; give {}", o.key, text, Allowed(o));
  *std::get<std::string*>(o.target) = text;
  return OkStatus();
}

std::string OptionEnvironmentName(const std::string& key) {
  std::string name = "BATON_";
  for (const char c : key) name += c == '.' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return name;
}

std::string NearestName(const std::string& name, const std::vector<std::string>& known) {
  std::string best;
  size_t best_distance = std::numeric_limits<size_t>::max();
  if (name.size() > 200) return best;
  for (const std::string& candidate : known) {
    const size_t distance = EditDistance(name, candidate);
    if (distance < best_distance) best = candidate, best_distance = distance;
  }
  return best_distance <= std::max<size_t>(3, name.size() / 2) ? best : "";
}

}  // namespace baton
