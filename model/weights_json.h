// JSON files that come with a model, read with bounds on size and depth. Private to the readers of
// model files.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/status.h"

namespace baton {

/// The object in a file. Errors: kNotFound, kUnavailable, kInvalid (not JSON, not an object, over
/// `max_bytes`, nested deeper than 64), with the path.
Result<nlohmann::json> ReadJsonObject(const std::string& path, uint64_t max_bytes);

}  // namespace baton
