// JSON that users give to commands as files, and what several of them read from it.
#pragma once

#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/status.h"

namespace baton {

/// A file's JSON, under the limits of ParseJson (gateway/json_text.h). Errors: those of ReadTextFile; kInvalid names the file, the place
/// and what is wrong there.
Result<nlohmann::ordered_json> ReadJsonFile(const std::string& path);

/// The ids of a JSON list. kInvalid: names the first entry that is none of the `vocab` ids.
Result<std::vector<TokenId>> TokenIdsOf(const nlohmann::ordered_json& list, uint32_t vocab = uint32_t{std::numeric_limits<TokenId>::max()} + 1);

/// A value as a message shows it: its beginning.
std::string ShortJson(const nlohmann::ordered_json& value);

}  // namespace baton
