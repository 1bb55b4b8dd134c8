// From a template's source to its tree. Thread: pure.
#pragma once

#include <memory>
#include <string_view>

#include "base/status.h"
#include "model/jinja/ast.h"

namespace baton::jinja {

/// Errors: kInvalid with the line and what was expected.
Result<std::shared_ptr<const Template>> ParseTemplate(std::string_view source);

}  // namespace baton::jinja
