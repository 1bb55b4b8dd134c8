// Jinja's filters, and `tojson` as Hugging Face redefines it.
#pragma once

#include <string_view>

#include "model/jinja/run.h"

namespace baton::jinja {

using FilterBody = Value (*)(Run& run, const Value& input, const Arguments& arguments);
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
