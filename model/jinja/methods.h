// Methods that values have in Python, less those that would change a list or dict (the sandbox hides them).
#pragma once

#include <string_view>

#include "model/jinja/run.h"

namespace baton::jinja {

bool HasMethod(const Value& self, std::string_view name);
/// `name` is one that HasMethod knows, or an Object's.
Value CallMethod(Run& run, const Value& self, std::string_view name, const Arguments& arguments);

using MethodBody = Value (*)(Run& run, const Value& self, const Arguments& arguments);
/// Null for an unknown name.
MethodBody FindTextMethod(std::string_view name);

}  // namespace baton::jinja
