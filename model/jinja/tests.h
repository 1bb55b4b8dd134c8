// Jinja's tests: what stands after `is`.
#pragma once

#include <string_view>

#include "model/jinja/run.h"

namespace baton::jinja {

using TestBody = bool (*)(Run& run, const Value& input, const Arguments& arguments);
/// Null for an unknown name.
TestBody FindTest(std::string_view name);

}  // namespace baton::jinja
