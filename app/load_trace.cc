#include "app/load_trace.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/random.h"

namespace baton {
namespace {

/// Tokens 0 to 255 are often special or bytes; ordinary ones begin behind.
TokenId TokenAt(uint64_t seed, uint64_t stream, uint64_t position, uint32_t vocab) {
  const uint32_t low = vocab > 512 ? 256 : 0;
  const uint32_t draw = Philox4x32(seed, position, stream)[0];
  return static_cast<TokenId>(low + (uint64_t{draw} * (vocab - low) >> 32));
}

bool Field(const nlohmann::json& line, const char* name, double& out) {
  const auto it = line.find(name);
  if (it == line.end() || !it->is_number() || !(it->get<double>() >= 0)) return false;
  out = it->get<double>();
  return true;
}

}  // namespace

Result<std::vector<LoadRequest>> ReadLoadTrace(const std::string& file, const LoadShape& shape) {
  std::ifstream input(file);
  if (!input) return NotFoundError("{}: the trace cannot be read", file);
  std::vector<LoadRequest> requests;
  std::string text;
  for (uint64_t number = 1; std::getline(input, text) && (shape.limit == 0 || requests.size() < shape.limit); ++number) {
    if (text.empty()) continue;
    const auto line = nlohmann::json::parse(text, nullptr, false);
    double timestamp = 0, input_length = 0, output_length = 0;
    if (!line.is_object() || !Field(line, "timestamp", timestamp) || !Field(line, "input_length", input_length) ||
        !Field(line, "output_length", output_length) || !line.contains("hash_ids") || !line["hash_ids"].is_array()) {
      return InvalidError("{}:{}: a line needs the numbers timestamp, input_length and output_length and the list hash_ids", file, number);
    }
    const double scale = shape.block_tokens / 512.0;
    LoadRequest request;
    request.at_s = timestamp / 1e3 / shape.speed;
    const double answer = std::clamp(output_length * scale, 1.0, std::max(1.0, shape.max_positions / 2.0));
    request.max_tokens = static_cast<uint32_t>(answer);
    const auto prompt = static_cast<uint64_t>(std::clamp(input_length * scale, 1.0, static_cast<double>(shape.max_positions) - request.max_tokens));
    for (const auto& id : line["hash_ids"]) {
      if (!id.is_number_integer()) return InvalidError("{}:{}: hash_ids must be integers", file, number);
      for (uint32_t i = 0; i < shape.block_tokens && request.prompt.size() < prompt; ++i) {
        request.prompt.push_back(TokenAt(shape.seed, static_cast<uint64_t>(id.get<int64_t>()) + 1, i, shape.vocab));
      }
    }
    if (request.prompt.empty()) return InvalidError("{}:{}: hash_ids is empty", file, number);
    requests.push_back(std::move(request));
  }
  if (requests.empty()) return InvalidError("{}: the trace holds no request", file);
  return requests;
}

std::vector<LoadRequest> MakeLoad(uint64_t count, uint32_t prompt_tokens, uint32_t max_tokens, const LoadShape& shape) {
  std::vector<LoadRequest> requests(count);
  for (uint64_t r = 0; r < count; ++r) {
    requests[r].max_tokens = max_tokens;
    for (uint32_t i = 0; i < prompt_tokens; ++i) requests[r].prompt.push_back(TokenAt(shape.seed, ~r, i, shape.vocab));
  }
  return requests;
}

}  // namespace baton
