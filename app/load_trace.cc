#include "app/load_trace.h"

#include <algorithm>

#include "app/trace.h"
#include "base/random.h"

namespace baton {
namespace {

/// Tokens 0 to 255 are often special or bytes; ordinary ones begin behind.
TokenId TokenAt(uint64_t seed, uint64_t stream, uint64_t position, uint32_t vocab) {
  const uint32_t low = vocab > 512 ? 256 : 0;
  const uint32_t draw = Philox4x32(seed, position, stream)[0];
  return static_cast<TokenId>(low + (uint64_t{draw} * (vocab - low) >> 32));
}

}  // namespace

Result<std::vector<LoadRequest>> ReadLoadTrace(const std::string& file, const LoadShape& shape) {
  ASSIGN_OR_RETURN(const std::vector<TraceRequest> trace, ReadTrace(file));
  const double scale = static_cast<double>(shape.block_tokens) / kTraceBlockTokens;
  std::vector<LoadRequest> requests;
  for (const TraceRequest& line : trace) {
    if (shape.limit > 0 && requests.size() == shape.limit) break;
    LoadRequest& request = requests.emplace_back();
    request.at_s = line.at_s / shape.speed;
    request.max_tokens = static_cast<uint32_t>(std::clamp(line.answer_tokens * scale, 1.0, std::max(1.0, shape.max_positions / 2.0)));
    const auto prompt = static_cast<uint64_t>(std::clamp(line.prompt_tokens * scale, 1.0, static_cast<double>(shape.max_positions) - request.max_tokens));
    for (const uint64_t id : line.hash_ids) {
      for (uint32_t i = 0; i < shape.block_tokens && request.prompt.size() < prompt; ++i) request.prompt.push_back(TokenAt(shape.seed, id + 1, i, shape.vocab));
    }
  }
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
