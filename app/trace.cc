#include "app/trace.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/bytes.h"
#include "gateway/json_text.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxTokens = 100'000'000;

/// The field as a whole number of at most `max`.
Result<uint64_t> Number(const Json& line, const char* field, uint64_t max) {
  const auto it = line.find(field);
  if (it == line.end()) return InvalidError("{} is missing", field);
  if (!it->is_number()) return InvalidError("{} is no number", field);
  const double value = it->get<double>();
  if (!(value >= 0) || value > static_cast<double>(max)) return InvalidError("{} is {}, it must be from 0 to {}", field, value, max);
  return static_cast<uint64_t>(value);
}

Result<TraceRequest> ParseLine(const std::string& text) {
  const auto parsed = ParseJson(text);
  if (!parsed.ok() || !parsed->is_object()) return InvalidError("not a JSON object");
  const Json& line = *parsed;
  TraceRequest request;
  ASSIGN_OR_RETURN(const uint64_t ms, Number(line, "timestamp", uint64_t{1} << 52));
  ASSIGN_OR_RETURN(const uint64_t prompt, Number(line, "input_length", kMaxTokens));
  ASSIGN_OR_RETURN(const uint64_t answer, Number(line, "output_length", kMaxTokens));
  if (prompt == 0) return InvalidError("input_length is 0");
  request.at_s = static_cast<double>(ms) / 1000;
  request.prompt_tokens = static_cast<uint32_t>(prompt);
  request.answer_tokens = static_cast<uint32_t>(answer);
  const auto ids = line.find("hash_ids");
  if (ids == line.end() || !ids->is_array()) return InvalidError("hash_ids is no list");
  for (const Json& id : *ids) {
    if (!id.is_number_unsigned()) return InvalidError("hash_ids has something that is no whole number from 0");
    request.hash_ids.push_back(id.get<uint64_t>());
  }
  if (request.hash_ids.size() != CeilDiv(prompt, kTraceBlockTokens)) {
    return InvalidError("hash_ids has {} entries, {} tokens need {}", request.hash_ids.size(), prompt, CeilDiv(prompt, kTraceBlockTokens));
  }
  return Result<TraceRequest>(std::move(request));
}

}  // namespace

std::vector<BlockKey> TraceRequest::Keys(uint32_t block_tokens) const {
  std::vector<BlockKey> keys;
  const size_t full = prompt_tokens / block_tokens;
  keys.reserve(full);
  for (const uint64_t id : std::span(hash_ids).first(std::min(full, hash_ids.size()))) {
    keys.push_back({Sha256(std::as_bytes(std::span(&id, 1)))});
  }
  return keys;
}

void TraceRequest::Shrink(uint32_t block_tokens) {
  const double scale = static_cast<double>(block_tokens) / kTraceBlockTokens;
  prompt_tokens = static_cast<uint32_t>(std::max(1.0, prompt_tokens * scale));
  answer_tokens = static_cast<uint32_t>(std::max(1.0, answer_tokens * scale));
}

Result<std::vector<TraceRequest>> ReadTrace(const std::string& path) {
  std::ifstream file(path);
  if (!file) return NotFoundError("no trace at {}", path);
  std::vector<TraceRequest> trace;
  std::string text;
  for (size_t number = 1; std::getline(file, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    auto request = ParseLine(text);
    if (!request.ok()) return request.status().WithContext(fmt::format("{} line {}", path, number));
    if (!trace.empty() && request->at_s < trace.back().at_s) return InvalidError("{} line {}: timestamp goes back", path, number);
    trace.push_back(std::move(*request));
  }
  if (file.bad()) return UnavailableError("cannot read {}", path);
  if (trace.empty()) return InvalidError("{} has no requests", path);
  const double begin_s = trace.front().at_s;  // some traces count from 1970
  for (TraceRequest& request : trace) request.at_s -= begin_s;
  return Result<std::vector<TraceRequest>>(std::move(trace));
}

}  // namespace baton
