#include "worker/request_check.h"

#include <cmath>

#include "base/bytes.h"
#include "worker/sampler.h"

namespace baton {
namespace {

Status CheckTokens(const char* field, std::span<const TokenId> tokens, uint32_t vocab) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= vocab) {
      return InvalidError("{}[{}] is {}, outside the vocabulary of 0 to {}", field, i, tokens[i], vocab - 1);
    }
  }
  return OkStatus();
}

Status CheckLength(const GenerateRequest& request, bool prefill_only, const ModelInfo& info, uint32_t block_tokens, size_t pool_blocks) {
  const uint64_t prompt = request.prompt.size(), answer = prefill_only ? 0 : request.max_tokens;
  if (prompt + answer > info.max_positions) {
    return InvalidError("the prompt's {} tokens and max_tokens {} are {}, the model has {} positions: shorten the prompt or lower max_tokens",
                        prompt, answer, prompt + answer, info.max_positions);
  }
  const uint64_t positions = prefill_only ? prompt : prompt + answer - 1;  // the last token's KV is never needed
  if (CeilDiv(positions, block_tokens) > pool_blocks) {
    return InvalidError("the prompt's {} tokens and max_tokens {} need KV of {} positions, this worker holds {}: shorten them or raise engine.kv_bytes",
                        prompt, answer, positions, pool_blocks * block_tokens);
  }
  return OkStatus();
}

Status CheckReady(const EngineRequest& r, uint32_t block_tokens, uint32_t vocab, size_t pool_blocks) {
  const size_t prompt = r.request.prompt.size();
  if (r.ready_tokens > prompt) return InvalidError("ready_tokens is {}, the prompt has {}", r.ready_tokens, prompt);
  if (r.cached_tokens > r.ready_tokens) return InvalidError("cached_tokens is {}, ready_tokens {}", r.cached_tokens, r.ready_tokens);
  if (r.blocks.size() * uint64_t{block_tokens} < r.ready_tokens) {
    return InvalidError("{} blocks of {} tokens cannot hold ready_tokens {}", r.blocks.size(), block_tokens, r.ready_tokens);
  }
  for (const BlockId block : r.blocks) {
    if (block.value >= pool_blocks) return InvalidError("block {} is outside the pool of {}", block.value, pool_blocks);
  }
  if (!r.first_token.has_value()) return OkStatus();
  if (r.ready_tokens != prompt) return InvalidError("first_token needs the whole prompt ready; ready_tokens is {} of {}", r.ready_tokens, prompt);
  if (r.prefill_only) return InvalidError("first_token is there already, so prefill_only has nothing to do");
  return CheckTokens("first_token", std::span(&r.first_token->token, 1), vocab);
}

}  // namespace

Status CheckRequest(const EngineRequest& r, const ModelInfo& info, uint32_t block_tokens, size_t pool_blocks) {
  const GenerateRequest& g = r.request;
  if (g.id == RequestId()) return InvalidError("the request has no id");
  if (g.prompt.empty()) return InvalidError("the prompt is empty; give at least one token");
  if (g.max_tokens == 0) return InvalidError("max_tokens is 0, must be at least 1");
  if (g.generated > g.prompt.size()) return InvalidError("generated is {}, the prompt has {} tokens", g.generated, g.prompt.size());
  if (!(g.deadline_s >= 0)) return InvalidError("deadline_s is {}, must be 0 (none) or above", g.deadline_s);
  RETURN_IF_ERROR(CheckLength(g, r.prefill_only, info, block_tokens, pool_blocks));
  RETURN_IF_ERROR(CheckTokens("prompt", g.prompt, info.vocab));
  RETURN_IF_ERROR(CheckTokens("prediction", g.prediction, info.vocab));
  if (g.prediction.size() > info.max_positions) {
    return InvalidError("the prediction has {} tokens, an answer has at most {}: shorten it", g.prediction.size(), info.max_positions);
  }
  RETURN_IF_ERROR(CheckSampling(g.sampling, info.vocab));
  return CheckReady(r, block_tokens, info.vocab, pool_blocks);
}

}  // namespace baton
