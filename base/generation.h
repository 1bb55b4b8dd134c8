// A generation request and its answer as plain values: what the gateway asks, the wire carries and the engine serves.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"

namespace baton {

struct SamplingParams {  // golden README §9: penalties, temperature, top_k, top_p, min_p, typical_p in this order
  double temperature = 1, top_p = 1, min_p = 0, typical_p = 1;
  double repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  uint32_t top_k = 0, no_repeat_ngram = 0;  // 0 = off
  uint64_t seed = 0;
  std::map<TokenId, float> logit_bias;
  int32_t logprobs = -1;  // -1 none, else the number of alternatives (0 = the chosen token only)
  uint32_t min_tokens = 0;  // no token that ends the answer is chosen before so many
  std::string grammar;      // GBNF text that the answer must follow (model/grammar/grammar.h); empty: any text
};

struct GenerateRequest {
  RequestId id;
  std::string tenant;
  std::vector<TokenId> prompt;
  uint32_t max_tokens = 16;
  uint32_t generated = 0;  // the last `generated` tokens of prompt were generated before (a moved stream): sampling goes on at their end
  SamplingParams sampling;
  bool ignore_eos = false;
  std::vector<TokenId> prediction;   // what the client expects the answer to contain: guesses for speculation, no bit of an answer
  std::vector<TokenId> stop_tokens;  // in addition to the model's EOS; stop strings are the gateway's, which cancels
  int32_t priority = 0;
  double deadline_s = 0;  // 0 = none
  bool keep = false;      // all its full blocks are to come to the store, also those that were only found in a worker's pool
};

struct TokenLogprob {
  TokenId token = -1;
  float logprob = 0;
};
struct TokenEvent {
  TokenId token = -1;
  float logprob = 0;
  std::vector<TokenLogprob> top;
  bool predicted = false;        // it was guessed, and so cost no step of its own
  uint32_t rejected_tokens = 0;  // guesses that were checked with it and thrown away
};

enum class FinishReason : uint8_t { kNone, kStop, kLength, kCancelled, kError };

struct RequestStats {
  uint32_t prompt_tokens = 0, cached_tokens = 0, cache_write_tokens = 0;
  double queue_s = 0, prefill_s = 0, decode_s = 0;
  std::string route;  // workers, where the prefix came from, why
};

}  // namespace baton
