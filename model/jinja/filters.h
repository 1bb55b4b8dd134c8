// Jinja's filters, and `tojson` as Hugging Face redefines it.
#pragma once

#include <string_view>

#include "model/jinja/parameters.h"
#include "model/jinja/run.h"

namespace baton::jinja {

using FilterBody = Value (*)(Run& run, const Value& input, const Arguments& arguments);
/// A filter that takes nothing beside its input.
template <Value (*kBody)(Run& run, const Value& input)>
Value Plain(Run& run, const Value& input, const Arguments& arguments) {
  const Parameters p(run, "filter", arguments, {});
  return p.ok() ? kBody(run, input) : Value();
}
/// Null for an unknown name.
FilterBody FindFilter(std::string_view name);

struct FilterEntry {
  std::string_view name;
  FilterBody body;
};
/// The tables FindFilter searches, by what the filters work on.
FilterBody FindTextFilter(std::string_view name);
FilterBody FindListFilter(std::string_view name);
FilterBody FindNumberFilter(std::string_view name);

}  // namespace baton::jinja
