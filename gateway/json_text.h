// JSON in and out: bodies are parsed under limits, answers are written straight into one buffer.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

namespace baton {

/// Deepest nesting, most keys of one object and most values of a text: within them the parser's time and memory stay linear, and
/// the value can be copied and printed, which recurses.
inline constexpr int kMaxJsonDepth = 64;
inline constexpr int kMaxJsonKeys = 4096;
inline constexpr int kMaxJsonValues = 1 << 20;

/// Any JSON in strict UTF-8; of equal keys the last counts. Errors: kInvalid says where and what.
Result<nlohmann::ordered_json> ParseJson(std::string_view text);
/// A request's body, which must be one object. Errors as ParseJson.
Result<nlohmann::ordered_json> ParseJsonObject(std::string_view text);

/// Appends `text` quoted and escaped; bytes that are not UTF-8 become U+FFFD, one for each maximal subpart of a character.
void AppendJsonString(std::string& out, std::string_view text);
/// The same without the quotes.
void AppendJsonEscaped(std::string& out, std::string_view text);
void AppendInteger(std::string& out, int64_t value);
/// The shortest decimal that reads back as the same float. JSON has no infinities: below -9999 (and NaN) it is -9999.0, the
/// value that stands for "impossible" in logprobs.
void AppendLogprob(std::string& out, float logprob);
/// `text` with bytes that are not UTF-8 replaced in the same way.
std::string ValidUtf8(std::string_view text);

}  // namespace baton
