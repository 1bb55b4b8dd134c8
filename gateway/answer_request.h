// What a client asks in /v1/chat/completions, /v1/completions and /v1/responses, read, checked and turned into tokens.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/generation.h"
#include "gateway/api_error.h"
#include "gateway/backend.h"
#include "gateway/text_codec.h"

namespace baton {

inline constexpr double kMaxCacheTtlS = 30 * 86400;  // of a cache handle

struct AnswerRequest {
  std::vector<std::vector<TokenId>> prompts;  // one, but for /v1/completions
  std::vector<std::string> prompt_texts;      // of /v1/completions with `echo`
  uint32_t n = 1, best_of = 1;                // choices returned and generated of each prompt
  std::optional<uint32_t> max_tokens;         // absent: what the context has left
  SamplingParams sampling;
  bool has_seed = false, ignore_eos = false;
  std::vector<TokenId> stop_tokens;
  std::vector<TokenId> prediction;  // of the answer, by the client
  std::vector<std::string> stops;
  std::vector<std::string> tools;  // functions whose calls are cut out of the answer; empty: everything is text
  bool include_stop = false;  // a matched stop string stays in the text
  bool stream = false, include_usage = false, continuous_usage = false;
  bool logprobs = false;  // the client wants them; sampling.logprobs may also be set for best_of
  bool echo = false, return_token_ids = false;
  int32_t priority = 0;
  std::string cache_salt;  // answers with different salts share no cache
  std::string cache_id;    // a handle whose tokens each prompt begins with
  std::vector<TokenId> cache_tokens;  // the handle's, set before reading: the prompt where the body has none
  bool return_cache = false;          // hold the answer's KV and give the handle
  std::optional<double> cache_ttl_s;  // of that handle

  /// Most tokens of one choice after `prompt`.
  uint32_t MaxTokens(size_t prompt_tokens, uint32_t max_positions) const {
    return max_tokens ? *max_tokens : max_positions - static_cast<uint32_t>(prompt_tokens);
  }
};

/// Each reads a body into `out`, or gives the error to send. Errors: 400 names the field; 404 for another model;
/// 400 context_length_exceeded when prompt and answer do not fit the model.
std::optional<ApiError> ReadChatRequest(nlohmann::ordered_json body, const TextCodec& codec, const ModelCard& card, AnswerRequest& out);
std::optional<ApiError> ReadCompletionRequest(const nlohmann::ordered_json& body, const TextCodec& codec, const ModelCard& card,
                                              AnswerRequest& out);
std::optional<ApiError> ReadResponsesRequest(const nlohmann::ordered_json& body, const TextCodec& codec, const ModelCard& card,
                                             AnswerRequest& out);

/// Checks `messages` and turns each content that is a list of text parts into one string, as templates expect.
std::optional<ApiError> NormalizeMessages(nlohmann::ordered_json& body);

}  // namespace baton
