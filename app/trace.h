// Request traces in the form of the Mooncake project: a JSON object a line with `timestamp` (ms), `input_length`, `output_length`
// (tokens) and `hash_ids`, one a block of 512 prompt tokens, equal where the whole prompt up to there is equal.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/block_key.h"
#include "base/status.h"

namespace baton {

inline constexpr uint32_t kTraceBlockTokens = 512;

struct TraceRequest {
  double at_s = 0;
  uint32_t prompt_tokens = 0, answer_tokens = 0;
  std::vector<uint64_t> hash_ids;
  /// The keys of its full blocks (the last id stands for a partial one unless the length is a multiple of the block's).
  std::vector<BlockKey> Keys(uint32_t block_tokens = kTraceBlockTokens) const;
  /// The same request with `block_tokens` tokens in place of each 512: long traffic for a small model.
  void Shrink(uint32_t block_tokens);
};

/// In the file's order, with times from the first request on that never go back. Errors: kNotFound; kInvalid names the line and what is wrong with it.
Result<std::vector<TraceRequest>> ReadTrace(const std::string& path);

}  // namespace baton
