// The corpus of `baton warm`: one prompt a line, encoded as the gateway would encode it, so that the blocks that are computed
// from it are the very ones that later requests ask for.
#pragma once

#include <functional>
#include <istream>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "gateway/text_codec.h"

namespace baton {

/// What a prompt of the served model may be.
struct PromptLimits {
  uint32_t vocab = 0, max_positions = 0;
};

struct WarmPrompt {
  std::string tenant;  // as GET /debug/requests names it; empty: of everybody
  std::vector<TokenId> tokens;
};

/// The prompt of {"prompt": text}, {"messages": […], "tools": …} or {"tokens": [ids]}, each with an optional "tenant". Errors:
/// kInvalid says what is wrong with the line.
Result<WarmPrompt> ReadWarmPrompt(std::string_view line, const TextCodec& codec, const PromptLimits& limits);

struct CorpusCount {
  uint64_t lines = 0, bad_lines = 0;  // lines that hold something
};
/// Reads all lines: calls `take` with each prompt and `bad` with the number (from 1) and reason of each line that is none.
CorpusCount ReadCorpus(std::istream& in, const TextCodec& codec, const PromptLimits& limits, const std::function<void(WarmPrompt)>& take,
                       const std::function<void(uint64_t line, const Status& reason)>& bad);

}  // namespace baton
