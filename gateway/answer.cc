#include "gateway/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/hash.h"
#include "base/log.h"
#include "gateway/cache_request.h"

namespace baton {
namespace {

/// A stream whose client takes nothing may hold so much before it is given up; far more than any answer's tail.
constexpr size_t kMaxPendingBytes = 8 << 20;

/// The seed of choice i of a prompt: the request's own for the first, then draws of the counter-based generator from it.
uint64_t ChoiceSeed(uint64_t seed, uint32_t i) {
  if (i == 0) return seed;
  const auto block = Philox4x32(seed, i, /*counter_high=*/0x63686f696365ull);  // "choice"
  return uint64_t{block[1]} << 32 | block[0];
}

std::unique_ptr<AnswerForm> NewForm(Answer::Api api, AnswerIdentity identity, const AnswerRequest& request, const TextCodec& codec) {
  switch (api) {
    case Answer::Api::kChat: return NewChatForm(std::move(identity), request, codec);
    case Answer::Api::kCompletion: return NewCompletionForm(std::move(identity), request, codec);
    case Answer::Api::kResponses: return NewResponsesForm(std::move(identity), request);
  }
  CHECK(false);
}

}  // namespace

Answer::Answer(HttpExchange& exchange, Api api, AnswerRequest request)
    : exchange_(exchange), state_(exchange.state()), request_(std::move(request)), id_(state_.random.Next64() | 1),
      start_(state_.clock.Now()), last_event_(start_), started_unix_s_(state_.clock.UnixSeconds()) {
  const ModelCard& card = state_.backend.card();
  form_ = NewForm(api, {fmt::format("{:016x}", id_), static_cast<int64_t>(started_unix_s_), card.id, "fp_" + card.fingerprint_hex.substr(0, 12)},
                  request_, state_.codec);
  state_.answers.insert(this);
  state_.metrics.running.Set(static_cast<double>(state_.answers.size()));
}

Answer::~Answer() noexcept {
  if (!sent_) state_.metrics.disconnects.Increment();
  Record();
  choices_.clear();
  state_.answers.erase(this);
  state_.metrics.running.Set(static_cast<double>(state_.answers.size()));
  if (state_.answers.empty()) {
    KJ_IF_MAYBE(fulfiller, state_.no_answers) (*fulfiller)->fulfill();
  }
}

kj::Promise<void> Answer::Run() {
  exchange_.stream().Watch();
  StartChoices();
  return request_.stream ? BeginStream() : SendWhole();
}

void Answer::StartChoices() {
  const uint32_t per_prompt = request_.best_of;
  const uint32_t max_positions = state_.backend.card().max_positions;
  const uint64_t seed = request_.has_seed ? request_.sampling.seed : state_.random.Next64();
  const bool keep_events = !request_.stream && (request_.logprobs || request_.return_token_ids);
  running_ = request_.prompts.size() * per_prompt;
  last_token_.assign(running_, start_);
  for (uint32_t index = 0; index < running_; ++index) {
    choices_.push_back(std::make_unique<Choice>(
        Choice::Options{index, index / per_prompt, !request_.stream, keep_events, request_.return_cache, request_.stops, request_.include_stop},
        state_.codec, *this));
  }
  for (const auto& choice : choices_) {
    if (error_) return;
    GenerateRequest generate;
    generate.id = RequestId(choice->index() == 0 ? id_ : state_.random.Next64() | 1);
    generate.tenant = exchange_.tenant();
    generate.prompt = request_.prompts[choice->prompt()];
    generate.max_tokens = request_.MaxTokens(generate.prompt.size(), max_positions);
    generate.sampling = request_.sampling;
    generate.sampling.seed = ChoiceSeed(seed, choice->index() % per_prompt);
    generate.ignore_eos = request_.ignore_eos;
    generate.stop_tokens = request_.stop_tokens;
    generate.prediction = request_.prediction;
    generate.priority = request_.priority;
    generate.keep = request_.return_cache || !request_.cache_tokens.empty();
    if (generate.max_tokens == 0) choice->EndEmpty();
    else choice->Start(state_.backend, std::move(generate));
  }
}

kj::Promise<void> Answer::Changed() {
  auto pair = kj::newPromiseAndFulfiller<void>();
  wake_ = kj::mv(pair.fulfiller);
  return kj::mv(pair.promise);
}

void Answer::Wake() {
  KJ_IF_MAYBE(fulfiller, wake_) {
    (*fulfiller)->fulfill();
    wake_ = nullptr;
  }
}

void Answer::FirstToken() {
  if (first_token_) return;
  first_token_ = state_.clock.Now();
  state_.metrics.first_token_s.Observe(ToSeconds(*first_token_ - start_));
}

void Answer::OnChoiceRoute(const RequestStats& stats) {
  if (route_.empty()) route_ = stats.route;
}

void Answer::OnChoiceToken(Choice& choice, std::string_view text, const TokenEvent& event) {
  if (error_) return;
  const Instant now = state_.clock.Now();
  if (choice.tokens() == 1) FirstToken();
  else state_.metrics.inter_token_s.Observe(ToSeconds(now - last_token_[choice.index()]));
  last_token_[choice.index()] = last_event_ = now;
  state_.metrics.generated_tokens.Increment();
  if (!request_.stream) return;
  if (!std::exchange(begun_, true)) form_->Begin(pending_);
  form_->Token(pending_, choice, text, event);
  if (pending_.size() > kMaxPendingBytes) {
    return OnChoiceError(UnavailableError("the client reads its stream too slowly"), 0);
  }
  Wake();
}

void Answer::OnChoiceEnd(Choice& choice, std::string_view rest) {
  if (error_) return;
  if (!request_.return_cache) return EndChoice(choice, rest);
  last_event_ = state_.clock.Now();
  keeping_ = KeepCache(choice).then([this, &choice, rest = std::string(rest)](Result<CacheHandle> handle) {
    if (!handle.ok()) return Fail(CacheError(handle.status()));
    form_->set_cache_id(handle->record.id);
    EndChoice(choice, rest);
  }).eagerlyEvaluate([this](kj::Exception&&) { Fail({500, "the answer's cache could not be kept", "return_cache", "internal", 0}); });
}

/// All tokens of the answer but those that no request could go on from.
Caches::Made Answer::KeepCache(const Choice& choice) {
  std::vector<TokenId> tokens = request_.prompts.front();
  const std::vector<TokenId> answered = choice.KeptTokens(state_.codec);
  tokens.insert(tokens.end(), answered.begin(), answered.end());
  tokens.resize(std::min<size_t>(tokens.size(), state_.backend.card().max_positions - 1));
  const double expires = state_.caches.now() + request_.cache_ttl_s.value_or(state_.config.cache_ttl_s);
  return state_.caches.Create(exchange_.tenant(), std::move(tokens), expires, HoldMode::kFresh);
}

void Answer::EndChoice(Choice& choice, std::string_view rest) {
  if (error_) return;
  --running_;
  if (request_.stream) {
    if (!std::exchange(begun_, true)) form_->Begin(pending_);
    form_->End(pending_, choice, rest);
    if (running_ == 0) form_->Done(pending_, CountUsage());
  }
  Wake();
}

void Answer::OnChoiceError(const Status& status, double retry_after_s) {
  if (error_ || running_ == 0) return;
  Fail(FromStatus(status, retry_after_s));
}

void Answer::Fail(const ApiError& error) {
  if (error_ || running_ == 0) return;
  error_ = error;
  LOG_WARN("gateway answer failed request_id={} status={} message={}", exchange_.request_id(), error.http_status, error.message);
  if (begun_) {
    pending_ += "data: ";
    pending_ += error.Json();
    pending_ += "\n\n";
  }
  Wake();
}

void Answer::ReleaseEnded() {
  for (const auto& choice : choices_) {
    if (choice->ended() || error_) choice->Release();
  }
}

kj::Promise<void> Answer::SendWhole() {
  ReleaseEnded();
  if (error_) {
    sent_ = true;
    return exchange_.ReplyError(*error_);
  }
  if (running_ > 0) return Changed().then([this] { return SendWhole(); });
  const auto ranked = Ranked();
  std::string body = form_->Whole(ranked, CountUsage());
  sent_ = true;
  return exchange_.ReplyJson(std::move(body), route_);
}

kj::Promise<void> Answer::BeginStream() {
  if (error_ && !begun_) return SendWhole();
  if (!begun_) return Changed().then([this] { return BeginStream(); });
  output_ = exchange_.BeginEvents(route_);
  return WriteLoop();
}

kj::Promise<void> Answer::WriteLoop() {
  ReleaseEnded();
  if (error_) exchange_.stream().EndAfterAnswer();
  if (!pending_.empty()) {
    writing_.clear();
    writing_.swap(pending_);
    return output_->write(writing_.data(), writing_.size()).then([this] { return WriteLoop(); });
  }
  if (running_ > 0 && !error_) return Changed().then([this] { return WriteLoop(); });
  sent_ = true;
  output_ = nullptr;  // the last chunk
  return kj::READY_NOW;
}

std::vector<const Choice*> Answer::Ranked() {
  std::vector<const Choice*> ranked;
  for (uint32_t p = 0; p < request_.prompts.size(); ++p) {
    std::vector<Choice*> group;
    for (uint32_t i = 0; i < request_.best_of; ++i) group.push_back(choices_[p * request_.best_of + i].get());
    if (request_.best_of > request_.n) {
      std::stable_sort(group.begin(), group.end(), [](const Choice* a, const Choice* b) { return a->MeanLogprob() > b->MeanLogprob(); });
    }
    for (uint32_t i = 0; i < request_.n; ++i) {
      group[i]->set_index(p * request_.n + i);
      ranked.push_back(group[i]);
    }
  }
  return ranked;
}

Usage Answer::CountUsage() const {
  Usage usage;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = *choices_[i];
    usage.completion_tokens += choice.tokens();
    usage.accepted_prediction_tokens += choice.accepted_tokens();
    usage.rejected_prediction_tokens += choice.rejected_tokens();
    if (i % request_.best_of != 0) continue;  // a prompt counts once, however many choices it has
    usage.prompt_tokens += request_.prompts[choice.prompt()].size();
    usage.cached_tokens += choice.stats().cached_tokens;
    usage.cache_write_tokens += choice.stats().cache_write_tokens;
  }
  return usage;
}

void Answer::Record() const {
  const double total_s = ToSeconds(state_.clock.Now() - start_);
  state_.metrics.answer_s.Observe(total_s);
  const Usage usage = CountUsage();
  state_.metrics.prompt_tokens.Increment(static_cast<double>(usage.prompt_tokens));
  state_.metrics.cached_tokens.Increment(static_cast<double>(usage.cached_tokens));
  state_.metrics.cache_write_tokens.Increment(static_cast<double>(usage.cache_write_tokens));
  const std::string outcome = error_ ? "error: " + error_->message : sent_ ? "done" : "the client left";
  state_.records.push_back({fmt::format("{:016x}", id_), exchange_.request_id(), exchange_.tenant(), exchange_.path(), route_, outcome,
                            started_unix_s_, first_token_ ? ToSeconds(*first_token_ - start_) : 0, total_s, usage.prompt_tokens,
                            usage.cached_tokens, usage.cache_write_tokens, usage.completion_tokens});
  if (state_.records.size() > GatewayState::kMaxRecords) state_.records.pop_front();
  LOG_DEBUG("gateway answer request_id={} prompt_tokens={} cached_tokens={} completion_tokens={} seconds={:.3f} outcome={} route={}",
            exchange_.request_id(), usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, total_s, outcome, route_);
}

}  // namespace baton
