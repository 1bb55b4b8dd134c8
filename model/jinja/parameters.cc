#include "model/jinja/parameters.h"

#include <algorithm>

namespace baton::jinja {

Parameters::Parameters(Run& run, std::string_view function, const Arguments& arguments, std::initializer_list<std::string_view> names, size_t required)
    : run_(run), function_(function), values_(names.size(), nullptr) {
  const auto fail = [&](std::string message) {
    if (ok_) run.Fail(fmt::format("{}() {}", function, message));
    ok_ = false;
  };
  if (arguments.positional.size() > names.size()) fail(fmt::format("takes at most {} arguments, {} were given", names.size(), arguments.positional.size()));
  for (size_t i = 0; i < std::min(names.size(), arguments.positional.size()); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto it = std::find(names.begin(), names.end(), name);
    if (it == names.end()) {
      fail(fmt::format("has no argument '{}'", name));
    } else if (const auto i = static_cast<size_t>(it - names.begin()); values_[i] != nullptr) {
      fail(fmt::format("got two values for '{}'", name));
    } else {
      values_[i] = &value;
    }
  }
  for (size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) fail(fmt::format("needs the argument '{}'", *(names.begin() + i)));
  }
}

Int Parameters::IntegerOr(size_t i, Int fallback) const {
  if (values_[i] == nullptr) return fallback;
  if (values_[i]->IsInteger()) return values_[i]->integer();
  run_.Fail(fmt::format("{}() needs an integer, not '{}'", function_, TypeName(*values_[i])));
  return fallback;
}

Text Parameters::TextOr(size_t i, std::string_view fallback) const {
  if (values_[i] == nullptr) return Text(fallback);
  if (values_[i]->IsText()) return values_[i]->text();
  run_.Fail(fmt::format("{}() needs a string, not '{}'", function_, TypeName(*values_[i])));
  return Text(fallback);
}

bool Parameters::TruthOr(size_t i, bool fallback) const { return values_[i] == nullptr ? fallback : run_.Truth(*values_[i]); }

}  // namespace baton::jinja
