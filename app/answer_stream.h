// What a client sees of one streamed answer: its text, tokens, times and usage.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "app/http_client.h"
#include "base/clock.h"

namespace baton {

struct StreamedAnswer {
  int status = 0;
  std::string text, finish_reason, route, error;  // `error` is empty for an answer that came whole
  uint64_t tokens = 0, prompt_tokens = 0, cached_tokens = 0;
  double first_token_s = 0, total_s = 0;
  std::vector<double> gaps_s;  // between tokens

  double TokensPerSecond() const;  // after the first token
};

/// Sends a body with "stream": true to /v1/chat/completions or /v1/completions and reads the answer; `on_text` hears each
/// piece of text. Whatever fails is in the answer's `error`.
kj::Promise<StreamedAnswer> StreamAnswer(HttpApiClient& client, const Clock& clock, const std::string& path, const std::string& body,
                                         std::function<void(std::string_view text)> on_text);

}  // namespace baton
