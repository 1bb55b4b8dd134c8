// Logprobs as the two OpenAI APIs write them.
#pragma once

#include <span>
#include <string>

#include "base/generation.h"
#include "gateway/text_codec.h"

namespace baton {

/// Chat: {"content":[{"token","logprob","bytes","top_logprobs":[…]}…],"refusal":null} of these tokens.
void AppendChatLogprobs(std::string& out, std::span<const TokenEvent> events, size_t alternatives, const TextCodec& codec);

/// Completions: {"tokens","token_logprobs","top_logprobs","text_offset"} of these tokens. `offset` is the place of the first
/// one's text in characters, and moves on behind the last.
void AppendCompletionLogprobs(std::string& out, std::span<const TokenEvent> events, size_t alternatives, const TextCodec& codec,
                              size_t& offset);

/// Characters (code points) of valid UTF-8.
size_t CountCharacters(std::string_view text);

}  // namespace baton
