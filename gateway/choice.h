// One choice of an answer: one generation, its text as it becomes certain, and how it ended.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/generation.h"
#include "base/status.h"
#include "gateway/backend.h"
#include "gateway/stop_matcher.h"
#include "gateway/text_codec.h"

namespace baton {

class Choice;

/// Hears what happens to the choices of an answer.
class ChoiceListener {
 public:
  virtual ~ChoiceListener() = default;
  virtual void OnChoiceRoute(const RequestStats& stats) = 0;
  /// `text` is what this token made certain, often nothing.
  virtual void OnChoiceToken(Choice& choice, std::string_view text, const TokenEvent& event) = 0;
  /// `rest` is what was held back until the end.
  virtual void OnChoiceEnd(Choice& choice, std::string_view rest) = 0;
  virtual void OnChoiceError(const Status& status, double retry_after_s) = 0;
};

/// Thread: the gateway's loop. The generation is cancelled when the choice is destroyed or Release is called.
class Choice final : public GenerationSink {
 public:
  struct Options {
    uint32_t index = 0, prompt = 0;  // among the answer's choices and prompts
    bool keep_text = false;          // collect text() for an answer sent whole
    bool keep_events = false;        // and events(), for its logprobs or token ids
    bool keep_tokens = false;        // and kept_tokens(), for a cache handle
    std::vector<std::string> stops;
    bool include_stop = false;
  };
  Choice(Options options, const TextCodec& codec, ChoiceListener& listener);

  void Start(Backend& backend, GenerateRequest request);
  /// Ends without a generation: an answer of no tokens.
  void EndEmpty();
  /// Drops the generation, which a stop string ended before the workers did. Not from inside a sink's call.
  void Release() { handle_.reset(); }

  uint32_t index() const { return options_.index; }
  void set_index(uint32_t index) { options_.index = index; }
  uint32_t prompt() const { return options_.prompt; }
  bool ended() const { return reason_ != FinishReason::kNone; }
  FinishReason reason() const { return reason_; }
  uint32_t tokens() const { return tokens_; }
  /// Of tokens(), those that speculation guessed; and the guesses that were checked in vain.
  uint32_t accepted_tokens() const { return accepted_tokens_; }
  uint32_t rejected_tokens() const { return rejected_tokens_; }
  const RequestStats& stats() const { return stats_; }
  const std::string& text() const { return text_; }
  const std::vector<TokenEvent>& events() const { return events_; }
  /// The tokens whose text was given: without those of a stop string that was cut off.
  std::vector<TokenId> KeptTokens(const TextCodec& codec) const;
  /// Mean logprob of the tokens; what best_of ranks by.
  double MeanLogprob() const { return tokens_ == 0 ? 0 : logprob_sum_ / tokens_; }

  void OnRoute(const RequestStats& stats) override;
  void OnToken(const TokenEvent& event) override;
  void OnEnd(FinishReason reason, const RequestStats& stats) override;
  void OnError(const Status& status, double retry_after_s) override;

 private:
  void End(FinishReason reason);

  Options options_;
  ChoiceListener& listener_;
  std::unique_ptr<TextStream> stream_;
  StopMatcher matcher_;
  std::string text_;
  std::vector<TokenEvent> events_;
  std::vector<TokenId> kept_tokens_;
  size_t text_bytes_ = 0;  // given so far
  uint32_t tokens_ = 0, accepted_tokens_ = 0, rejected_tokens_ = 0;
  double logprob_sum_ = 0;
  FinishReason reason_ = FinishReason::kNone;
  RequestStats stats_;
  std::unique_ptr<GenerationHandle> handle_;  // last: what it cancels may not outlive the rest
};

}  // namespace baton
