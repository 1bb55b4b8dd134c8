// The arguments of a filter, test or method, bound to its parameters' names as Python binds them. Thread: one at a time.
#pragma once

#include <initializer_list>
#include <string_view>
#include <vector>

#include "model/jinja/run.h"

namespace baton::jinja {

class Parameters {
 public:
  /// Fails the rendering for too many, unknown, repeated or fewer than `required` arguments.
  Parameters(Run& run, std::string_view function, const Arguments& arguments, std::initializer_list<std::string_view> names, size_t required = 0);

  bool ok() const { return ok_; }
  /// Null where the caller left it out.
  const Value* Get(size_t i) const { return values_[i]; }
  /// These fail the rendering for a value of another type.
  Int IntegerOr(size_t i, Int fallback) const;
  Text TextOr(size_t i, std::string_view fallback) const;
  bool TruthOr(size_t i, bool fallback) const;

 private:
  Run& run_;
  const std::string_view function_;
  bool ok_ = true;
  std::vector<const Value*> values_;
};

}  // namespace baton::jinja
