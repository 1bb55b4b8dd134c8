// JSON to template values and back, the way Python's json.dumps writes it.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "model/jinja/run.h"

namespace baton::jinja {

struct DumpOptions {
  bool ensure_ascii = false, sort_keys = false;
  std::optional<std::string> indent;  // what one level is indented by; absent: one line
  std::string item_separator = ", ", key_separator = ": ";
};

/// Everything in it counts as written by the user, if `from_user`.
Value FromJson(Run& run, const nlohmann::ordered_json& json, bool from_user);
/// Fails for what JSON cannot hold.
Text DumpJson(Run& run, const Value& value, const DumpOptions& options);

}  // namespace baton::jinja
