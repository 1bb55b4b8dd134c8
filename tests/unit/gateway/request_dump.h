// An AnswerRequest as one text, so that tests can say "this body means the same as that one" of every field at once.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>

#include "gateway/answer_request.h"

namespace baton {

inline std::string Dump(const AnswerRequest& r) {
  const SamplingParams& s = r.sampling;
  std::string bias;
  for (const auto& [id, value] : s.logit_bias) bias += fmt::format("{}:{} ", id, value);
  return fmt::format("prompts {} texts {} n {} best_of {} max {} temperature {} top_p {} min_p {} typical_p {} repetition {} presence {} frequency {} top_k {} ngram {} "
                     "seed {} {} bias {}logprobs {} {} min_tokens {} grammar {} ignore_eos {} stop_tokens {} prediction {} stops {} tools {} include_stop {} stream {} "
                     "usage {} {} echo {} ids {} priority {} salt {} cache {} return {} ttl {}",
                     r.prompts, r.prompt_texts, r.n, r.best_of, r.max_tokens ? int64_t{*r.max_tokens} : -1, s.temperature, s.top_p, s.min_p, s.typical_p, s.repetition_penalty,
                     s.presence_penalty, s.frequency_penalty, s.top_k, s.no_repeat_ngram, r.has_seed, s.seed, bias, r.logprobs, s.logprobs, s.min_tokens, s.grammar,
                     r.ignore_eos, r.stop_tokens, r.prediction, r.stops, r.tools, r.include_stop, r.stream, r.include_usage, r.continuous_usage, r.echo, r.return_token_ids,
                     r.priority, r.cache_salt, r.cache_id, r.return_cache, r.cache_ttl_s.value_or(-1));
}

}  // namespace baton
