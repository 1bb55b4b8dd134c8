#include "tests/dst/clients.h"

#include <bit>

#include "base/log.h"

namespace baton::dst {

std::string Ask::Describe() const { return fmt::format("request {} ({} of {} tokens)", request_.id.value, got_, want_.tokens.size()); }

void Ask::OnRoute(const RequestStats& stats) {
  if (over()) return Violate("a route after the end");
  routed_ = true;
  if (stats.prompt_tokens != request_.prompt.size()) Violate(fmt::format("prompt_tokens is {}, not {}", stats.prompt_tokens, request_.prompt.size()));
  if (stats.cached_tokens >= request_.prompt.size()) Violate(fmt::format("cached_tokens is {} of {}", stats.cached_tokens, request_.prompt.size()));
}

void Ask::OnToken(const TokenEvent& event) {
  if (over()) return Violate("a token after the end");
  if (!routed_) Violate("a token before the route");
  if (got_ >= want_.events.size()) return Violate("a token too many");
  const TokenEvent& want = want_.events[got_];
  if (event.token != want.token) Violate(fmt::format("token {} instead of {}", event.token, want.token));
  if (std::bit_cast<uint32_t>(event.logprob) != std::bit_cast<uint32_t>(want.logprob)) Violate("another logprob");
  if (event.top.size() != want.top.size()) Violate("other alternatives");
  ++got_;
  if (on_token) on_token();
  if (got_ >= leave_after_tokens && on_leave_due) std::exchange(on_leave_due, {})();
}

void Ask::OnEnd(FinishReason reason, const RequestStats&) {
  if (over()) return Violate("a second end");
  ended_ = true;
  if (got_ != want_.tokens.size()) Violate("it ended early");
  const auto& stops = request_.stop_tokens;
  const bool stopped = std::find(stops.begin(), stops.end(), want_.tokens.back()) != stops.end();
  if (reason != (stopped ? FinishReason::kStop : FinishReason::kLength)) Violate(fmt::format("it ended for reason {}", static_cast<int>(reason)));
}

/// A new request may be refused with "come back later"; a stream that has begun may not fail.
void Ask::OnError(const Status& status, double) {
  if (over()) return Violate("an error after the end");
  refused_ = true;
  LOG_INFO("{} refused: {}", Describe(), status.ToString());
  const bool later = status.code() == StatusCode::kUnavailable || status.code() == StatusCode::kExhausted;
  if (got_ > 0 || !later) Violate("failed: " + status.ToString());
}

void Ask::Leave() {
  if (over()) return;
  left_ = true;
  handle_ = nullptr;
}

void Ask::Lose() {
  if (!over()) left_ = true;
  handle_ = nullptr;
}

namespace {

SamplingParams DrawSampling(World& world) {
  SamplingParams sampling;
  sampling.temperature = world.Chance(0.5) ? 0 : world.Between(0.3, 1.5);
  sampling.seed = world.Below(1000);
  if (world.Chance(0.3)) sampling.top_k = 1 + static_cast<uint32_t>(world.Below(20));
  if (world.Chance(0.3)) sampling.repetition_penalty = world.Between(1, 1.5);
  if (world.Chance(0.2)) sampling.frequency_penalty = world.Between(-0.5, 0.5);
  if (world.Chance(0.2)) sampling.no_repeat_ngram = 3;
  if (world.Chance(0.4)) sampling.logprobs = static_cast<int32_t>(world.Below(4));
  return sampling;
}

}  // namespace

std::vector<std::unique_ptr<Ask>> DrawRequests(World& world, Model& model, const ClientTraits& traits, const Violation& violation) {
  std::vector<std::vector<TokenId>> stems;
  for (uint64_t i = 0; i < 3; ++i) stems.push_back(TestPrompt(world.Below(traits.longest_prompt - 1), world.Below(1000), traits.vocab));
  std::vector<std::unique_ptr<Ask>> asks;
  for (size_t i = 0; i < traits.requests; ++i) {
    GenerateRequest request;
    request.id = RequestId(i + 1);
    request.tenant = world.Chance(0.3) ? "other" : "";
    request.prompt = stems[world.Below(stems.size())];
    const size_t more = 1 + world.Below(traits.longest_prompt - request.prompt.size());
    for (const TokenId token : TestPrompt(more, world.Below(8), traits.vocab)) request.prompt.push_back(token);
    request.max_tokens = 1 + static_cast<uint32_t>(world.Below(traits.longest_answer));
    request.sampling = DrawSampling(world);
    request.priority = static_cast<int32_t>(world.Below(3)) - 1;
    if (world.Chance(0.3)) request.stop_tokens = {static_cast<TokenId>(world.Below(traits.vocab)), static_cast<TokenId>(world.Below(traits.vocab))};
    Answer want = PlainAnswer(model, request);
    asks.push_back(std::make_unique<Ask>(std::move(request), std::move(want), violation));
    if (world.Chance(traits.leaving)) asks.back()->leave_after_tokens = static_cast<uint32_t>(world.Below(traits.longest_answer));
  }
  return asks;
}

}  // namespace baton::dst
