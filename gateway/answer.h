// One answer: the generations of its choices, sent whole or as a stream of events.
#pragma once

#include <kj/async-io.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gateway/answer_form.h"
#include "gateway/answer_request.h"
#include "gateway/choice.h"
#include "gateway/http_exchange.h"

namespace baton {

/// Thread: the gateway's loop. Destroying it, as kj-http does when the client leaves, cancels what still runs.
class Answer final : public ChoiceListener {
 public:
  enum class Api { kChat, kCompletion, kResponses };

  Answer(HttpExchange& exchange, Api api, AnswerRequest request);
  ~Answer() noexcept override;

  /// Generates and sends; resolves when the last byte was handed to the connection. The exchange outlives the answer.
  kj::Promise<void> Run();
  /// Ends the answer with an error, as a drain does whose time is over.
  void Fail(const ApiError& error);
  /// When the last token came, or the answer began.
  Instant last_event() const { return last_event_; }

 private:
  void OnChoiceRoute(const RequestStats& stats) override;
  void OnChoiceToken(Choice& choice, std::string_view text, const TokenEvent& event) override;
  void OnChoiceEnd(Choice& choice, std::string_view rest) override;
  void OnChoiceError(const Status& status, double retry_after_s) override;

  void StartChoices();
  Caches::Made KeepCache(const Choice& choice);
  void EndChoice(Choice& choice, std::string_view rest);
  void ReleaseEnded();  // outside of any sink's call
  kj::Promise<void> SendWhole();
  kj::Promise<void> BeginStream();
  kj::Promise<void> WriteLoop();
  kj::Promise<void> Changed();  // resolves at the next Wake
  void Wake();
  void FirstToken();
  std::vector<const Choice*> Ranked();  // the choices to return, by index
  Usage CountUsage() const;
  void Record() const;

  HttpExchange& exchange_;
  GatewayState& state_;
  const AnswerRequest request_;
  const uint64_t id_;
  const Instant start_;
  Instant last_event_;
  const double started_unix_s_;
  std::unique_ptr<AnswerForm> form_;
  std::string route_;
  std::string pending_, writing_;  // events not yet given to the connection, and being written
  bool begun_ = false;             // a first event exists
  size_t running_ = 0;             // choices that have not ended
  std::optional<ApiError> error_;
  std::optional<Instant> first_token_;
  std::vector<Instant> last_token_;  // by choice
  kj::Maybe<kj::Own<kj::PromiseFulfiller<void>>> wake_;
  kj::Own<kj::AsyncOutputStream> output_;
  bool sent_ = false;
  kj::Promise<void> keeping_ = nullptr;  // the answer's KV as a cache handle
  std::vector<std::unique_ptr<Choice>> choices_;  // last: their handles go first
};

}  // namespace baton
