// The requests of a load test: made up, or from a trace of real traffic.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/status.h"

namespace baton {

struct LoadRequest {
  double at_s = 0;  // when it is sent, from the start
  std::vector<TokenId> prompt;
  uint32_t max_tokens = 0;
};

struct LoadShape {
  uint32_t vocab = 1000, max_positions = 2048;
  uint32_t block_tokens = 512;  // tokens that stand for one block (512 tokens) of the trace: fewer scale long traffic to a small model
  double speed = 1;             // of the trace's clock
  uint64_t limit = 0;           // most requests taken; 0 = all
  uint64_t seed = 0;
};

/// The requests of a trace (app/trace.h). The same hash id always gives the
/// same tokens, so prefixes are shared as in the trace; what does not fit the model is cut. Errors: as ReadTrace's.
Result<std::vector<LoadRequest>> ReadLoadTrace(const std::string& file, const LoadShape& shape);

/// `count` requests of `prompt_tokens` tokens that share nothing, all due at once.
std::vector<LoadRequest> MakeLoad(uint64_t count, uint32_t prompt_tokens, uint32_t max_tokens, const LoadShape& shape);

}  // namespace baton
