#include "gateway/choice.h"

#include <utility>

namespace baton {

Choice::Choice(Options options, const TextCodec& codec, ChoiceListener& listener)
    : options_(std::move(options)), listener_(listener), stream_(codec.NewStream()), matcher_(options_.stops, options_.include_stop) {}

void Choice::Start(Backend& backend, GenerateRequest request) {
  stats_.prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  handle_ = backend.Generate(std::move(request), *this);
}

void Choice::EndEmpty() { End(FinishReason::kLength); }

void Choice::OnRoute(const RequestStats& stats) {
  stats_ = stats;
  listener_.OnChoiceRoute(stats);
}

void Choice::OnToken(const TokenEvent& event) {
  if (ended()) return;  // a stop string matched, and what was on its way still arrives
  ++tokens_;
  accepted_tokens_ += event.predicted;
  rejected_tokens_ += event.rejected_tokens;
  logprob_sum_ += event.logprob;
  const std::string text = matcher_.Push(stream_->Push(event.token));
  if (options_.keep_text) text_ += text;
  if (options_.keep_events) events_.push_back(event);
  if (options_.keep_tokens) {
    kept_tokens_.push_back(event.token);
    text_bytes_ += text.size();
  }
  listener_.OnChoiceToken(*this, text, event);
  if (matcher_.matched()) End(FinishReason::kStop);
}

void Choice::OnEnd(FinishReason reason, const RequestStats& stats) {
  if (ended()) return;
  stats_ = stats;
  if (reason != FinishReason::kStop && reason != FinishReason::kLength) {
    return OnError(reason == FinishReason::kCancelled ? CancelledError("the answer was cancelled by the server")
                                                      : InternalError("the answer ended with an error on its worker"), 0);
  }
  End(reason);
}

void Choice::OnError(const Status& status, double retry_after_s) {
  if (ended()) return;
  reason_ = FinishReason::kError;
  listener_.OnChoiceError(status, retry_after_s);
}

std::vector<TokenId> Choice::KeptTokens(const TextCodec& codec) const {
  if (!matcher_.matched()) return kept_tokens_;
  const auto stream = codec.NewStream();
  size_t kept = 0, bytes = 0;
  while (kept < kept_tokens_.size() && bytes < text_bytes_) bytes += stream->Push(kept_tokens_[kept++]).size();
  if (bytes > text_bytes_) --kept;  // the text ends inside this token
  return {kept_tokens_.begin(), kept_tokens_.begin() + static_cast<ptrdiff_t>(kept)};
}

void Choice::End(FinishReason reason) {
  std::string rest;
  if (!matcher_.matched()) {
    rest = matcher_.Push(stream_->Finish());
    if (matcher_.matched()) reason = FinishReason::kStop;
    else rest += matcher_.Finish();
  }
  if (options_.keep_text) text_ += rest;
  reason_ = reason;
  listener_.OnChoiceEnd(*this, rest);
}

}  // namespace baton
