// Speculation changes how many passes an answer takes and nothing else. The fake model's text never repeats, so a client's
// prediction decides what is guessed: the true answer, one with errors, or nonsense.
#include "base/bytes.h"
#include "base/random.h"
#include "engine_support.h"

namespace baton {
namespace {

std::vector<TokenId> WithErrors(std::vector<TokenId> tokens, uint64_t seed, uint64_t one_in) {
  Random random(seed);
  for (TokenId& token : tokens) {
    if (random.Below(one_in) == 0) token = static_cast<TokenId>(random.Below(50));
  }
  return tokens;
}

class Speculation : public EngineTest {
 protected:
  /// The request's plain answer; its prediction is that answer as `change` leaves it.
  Answer Predict(EngineRequest& request, const std::function<void(std::vector<TokenId>&)>& change = {}) {
    Answer plain = PlainAnswer(*fake_, request.request);
    request.request.prediction = plain.tokens;
    if (change) change(request.request.prediction);
    return plain;
  }
  static uint32_t Accepted(const Answer& answer) {
    uint32_t n = 0;
    for (const TokenEvent& event : answer.events) n += event.predicted;
    return n;
  }
  static uint32_t Rejected(const Answer& answer) {
    uint32_t n = 0;
    for (const TokenEvent& event : answer.events) n += event.rejected_tokens;
    return n;
  }
};

TEST_F(Speculation, AFullyPredictedAnswerTakesFewPasses) {
  EngineBench bench(model_, {.config = {.speculative_tokens = 4}});
  auto request = MakeRequest(1, TestPrompt(6, 1), 41, SeededParams(5));
  const Answer plain = Predict(request);
  ASSERT_TRUE(bench.Submit(request).ok());
  bench.Drain();
  const Answer& got = bench.Get(1);
  ExpectSameAnswer(got, plain, "predicted");
  EXPECT_EQ(got.reason, FinishReason::kLength);
  EXPECT_LE(model_.passes, 14u) << "the prompt, then up to five tokens a pass";
  EXPECT_EQ(got.events.size() - Accepted(got), model_.passes) << "each pass gives one token that was not guessed";
  EXPECT_EQ(bench.engine->load().accepted_tokens, Accepted(got));
  EXPECT_EQ(bench.engine->load().rejected_tokens, Rejected(got));
  EXPECT_EQ(model_.tokens, 6 + model_.passes - 1 + Accepted(got) + Rejected(got));
  ExpectClean(bench);
}

TEST_F(Speculation, OffMeansOnePassAToken) {
  EngineBench bench(model_, {.config = {.speculative_tokens = 0}});
  auto request = MakeRequest(1, TestPrompt(6, 1), 20);
  const Answer plain = Predict(request);
  ASSERT_TRUE(bench.Submit(request).ok());
  bench.Drain();
  ExpectSameAnswer(bench.Get(1), plain, "off");
  EXPECT_EQ(model_.passes, 20u);
  EXPECT_EQ(bench.engine->load().accepted_tokens + bench.engine->load().rejected_tokens, 0u);
}

TEST_F(Speculation, WrongPredictionsAreGivenUp) {
  EngineBench bench(model_, {.blocks = 120});
  auto request = MakeRequest(1, TestPrompt(6, 1), 400, GreedyParams());
  const Answer plain = Predict(request, [&](std::vector<TokenId>& tokens) {
    for (size_t i = 0; i + 1 < tokens.size(); i += 2) tokens[i + 1] = (tokens[i + 1] + 1) % 50;
  });
  ASSERT_TRUE(bench.Submit(request).ok());
  bench.Drain();
  ExpectSameAnswer(bench.Get(1), plain, "half wrong");
  EXPECT_LT(Rejected(bench.Get(1)), 100u) << "guesses that fail are checked less and less";
  EXPECT_GT(Rejected(bench.Get(1)), 0u);
}

/// Every way to sample, every kind of error in the guesses, block bounds at every place.
TEST_F(Speculation, NoBitOfAnAnswerChanges) {
  SamplingParams biased = SeededParams(4);
  for (TokenId id = 0; id < 50; id += 3) biased.logit_bias[id] = static_cast<float>(id % 7) - 3;
  SamplingParams penalised = GreedyParams();
  penalised.frequency_penalty = 1.5;
  penalised.presence_penalty = 0.5;
  penalised.repetition_penalty = 1.3;
  SamplingParams no_repeats = SeededParams(9);
  no_repeats.no_repeat_ngram = 2;
  SamplingParams silent = SeededParams(2);
  silent.logprobs = -1;
  uint64_t accepted = 0, rejected = 0, round = 0;
  for (const SamplingParams& params : {GreedyParams(), SeededParams(3), biased, penalised, no_repeats, silent}) {
    for (const uint64_t one_in : {1, 2, 4, 9, 1000}) {
      for (const uint32_t most : {1, 3, 8, 30}) {
        ++round;
        EngineBench bench(model_, {.config = {.speculative_tokens = most}});
        auto request = MakeRequest(1, TestPrompt(1 + round % 11, round), 30, params);
        if (round % 3 == 0) request.request.stop_tokens = {static_cast<TokenId>(round % 50)};
        const Answer plain = Predict(request, [&](std::vector<TokenId>& tokens) { tokens = WithErrors(tokens, round, one_in); });
        request.use_pool = round % 4 != 0;
        ASSERT_TRUE(bench.Submit(request).ok());
        bench.Drain();
        ExpectSameAnswer(bench.Get(1), plain, "round " + std::to_string(round));
        accepted += Accepted(bench.Get(1));
        rejected += Rejected(bench.Get(1));
        ExpectClean(bench);
      }
    }
  }
  EXPECT_GT(accepted, 500u);
  EXPECT_GT(rejected, 300u);
}

/// What stands in the pool afterwards is the true text's chain: no block with a rejected token was published or sealed, and each
/// serves a second request right.
TEST_F(Speculation, RejectedTokensLeaveNoBlock) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    EngineBench bench(model_);
    bench.recorder->keep_sealed = true;
    auto request = MakeRequest(1, TestPrompt(1 + seed % 9, seed), 25, SeededParams(seed));
    const Answer plain = Predict(request, [&](std::vector<TokenId>& tokens) { tokens = WithErrors(tokens, seed, 3); });
    ASSERT_TRUE(bench.Submit(request).ok());
    bench.Drain();
    std::vector<TokenId> text = request.request.prompt;
    text.insert(text.end(), plain.tokens.begin(), plain.tokens.end());
    const auto keys = KeyChain(TestRoot(), std::span(text).first(text.size() - 1), 4);
    auto published = bench.pool->Keys();
    EXPECT_EQ(published.size(), keys.size());
    for (const BlockKey& key : published) EXPECT_NE(std::find(keys.begin(), keys.end(), key), keys.end()) << "a block of rejected tokens";
    EXPECT_EQ(bench.recorder->sealed[1].size(), keys.size());
    // Each position of a published block holds what a plain pass computes: the whole text again, from the pool.
    auto again = MakeRequest(2, text, 3, GreedyParams());
    ASSERT_TRUE(bench.Submit(again).ok());
    bench.Drain();
    EXPECT_GE(bench.Get(2).stats.cached_tokens, keys.size() * 4 - 1);
    ExpectSameAnswer(bench.Get(2), PlainAnswer(*fake_, again.request), "from the pool");
    ExpectClean(bench);
  }
}

TEST_F(Speculation, BlocksOfRejectedGuessesGoBackInTheSameStep) {
  EngineBench bench(model_, {.config = {.speculative_tokens = 30}});
  auto request = MakeRequest(1, TestPrompt(3, 1), 60, GreedyParams());
  request.use_pool = false;
  (void)Predict(request, [](std::vector<TokenId>& tokens) { tokens = WithErrors(tokens, 5, 6); });
  ASSERT_TRUE(bench.Submit(request).ok());
  size_t most = 0;
  while (bench.engine->Step()) {
    if (bench.Get(1).ended) break;
    const size_t tokens = 3 + bench.Get(1).tokens.size();
    EXPECT_LE(bench.pool->stats().referenced, CeilDiv(tokens, 4)) << "after " << tokens << " tokens";
    most = std::max(most, model_.largest_pass);
  }
  EXPECT_GT(most, 8u) << "no guess reached into other blocks";
  ExpectClean(bench);
}

/// Guesses take only blocks that are left over: none is preempted for them, and none fails to decode.
TEST_F(Speculation, GuessesTakeNoBlocksFromOthers) {
  constexpr uint32_t kAnswer = 13;
  for (const size_t blocks : {8, 9, 10}) {  // two sequences of 16 positions need 8
    EngineBench bench(model_, {.config = {.speculative_tokens = 8}, .blocks = blocks});
    std::vector<Answer> plain;
    for (uint64_t id = 1; id <= 2; ++id) {
      auto request = MakeRequest(id, TestPrompt(4, id), kAnswer, SeededParams(id));
      request.use_pool = false;
      plain.push_back(Predict(request));
      ASSERT_TRUE(bench.Submit(request).ok());
    }
    bench.Drain();
    for (uint64_t id = 1; id <= 2; ++id) ExpectSameAnswer(bench.Get(id), plain[id - 1], "blocks " + std::to_string(blocks));
    EXPECT_EQ(bench.engine->load().preemptions, 0u);
    ExpectClean(bench);
  }
}

TEST_F(Speculation, AnAnswerEndsWhereItEnds) {
  for (uint32_t length = 1; length <= 12; ++length) {
    EngineBench bench(model_, {.config = {.speculative_tokens = 8}});
    auto request = MakeRequest(1, TestPrompt(5, 7), 30, GreedyParams());
    const Answer whole = Predict(request);
    request.request.max_tokens = length;
    ASSERT_TRUE(bench.Submit(request).ok());
    bench.Drain();
    EXPECT_EQ(bench.Get(1).tokens, std::vector<TokenId>(whole.tokens.begin(), whole.tokens.begin() + length)) << "max_tokens";
    EXPECT_EQ(bench.Get(1).reason, FinishReason::kLength);

    auto stops = MakeRequest(2, TestPrompt(5, 7), 30, GreedyParams());
    stops.request.prediction = whole.tokens;
    stops.request.stop_tokens = {whole.tokens[length]};
    const Answer plain = PlainAnswer(*fake_, stops.request);
    ASSERT_TRUE(bench.Submit(stops).ok());
    bench.Drain();
    ExpectSameAnswer(bench.Get(2), plain, "stop token");
    EXPECT_EQ(bench.Get(2).reason, FinishReason::kStop);
    EXPECT_EQ(Accepted(bench.Get(2)) + Rejected(bench.Get(2)), bench.engine->load().accepted_tokens + bench.engine->load().rejected_tokens - Accepted(bench.Get(1)) - Rejected(bench.Get(1)))
        << "guesses behind the end count as rejected";
    ExpectClean(bench);
  }
}

TEST_F(Speculation, ACancelFromWithinEndsItAfterTheStep) {
  EngineBench bench(model_, {.config = {.speculative_tokens = 4}});
  auto request = MakeRequest(1, TestPrompt(5, 7), 40, GreedyParams());
  const Answer plain = Predict(request);
  bench.recorder->on_token = [&](RequestId id, const TokenEvent&) {
    if (bench.Get(1).tokens.size() == 8) bench.engine->Cancel(id);
  };
  ASSERT_TRUE(bench.Submit(request).ok());
  bench.Drain();
  const auto& got = bench.Get(1).tokens;
  EXPECT_EQ(bench.Get(1).reason, FinishReason::kCancelled);
  EXPECT_GE(got.size(), 8u);
  EXPECT_LT(got.size(), 8u + 5);
  EXPECT_TRUE(std::equal(got.begin(), got.end(), plain.tokens.begin()));
  ExpectClean(bench);
}

TEST_F(Speculation, APrefillWorkersRequestGuessesNothing) {
  EngineBench bench(model_);
  auto request = MakeRequest(1, TestPrompt(9, 3), 20, GreedyParams());
  const Answer plain = Predict(request);
  request.prefill_only = request.push_layers = true;
  ASSERT_TRUE(bench.Submit(request).ok());
  bench.Drain();
  EXPECT_EQ(bench.Get(1).tokens, std::vector<TokenId>{plain.tokens[0]});
  EXPECT_EQ(model_.tokens, 9u);
  for (const LayerReport& report : bench.recorder->layers[1]) EXPECT_LE(report.end, 9u);
  bench.engine->ReleaseHeld(RequestId(1));
  ExpectClean(bench);
}

TEST_F(Speculation, APushedAnswersGuessesAreNotReported) {
  EngineBench bench(model_);
  auto request = MakeRequest(1, TestPrompt(9, 3), 20, SeededParams(3));
  const Answer plain = Predict(request, [](std::vector<TokenId>& tokens) { tokens = WithErrors(tokens, 2, 4); });
  request.push_layers = true;
  ASSERT_TRUE(bench.Submit(request).ok());
  bench.Drain();
  ExpectSameAnswer(bench.Get(1), plain, "pushed");
  EXPECT_GT(Accepted(bench.Get(1)), 0u);
  const auto& reports = bench.recorder->layers[1];
  ASSERT_FALSE(reports.empty());
  for (const LayerReport& report : reports) {
    EXPECT_LE(report.end, 9u);
    EXPECT_EQ(report.blocks, reports[0].blocks) << "its blocks never change";
  }
  bench.engine->ReleaseHeld(RequestId(1));
  ExpectClean(bench);
}

TEST_F(Speculation, AMovedStreamGoesOnTheSame) {
  auto request = MakeRequest(1, TestPrompt(7, 5), 24, SeededParams(8));
  const Answer plain = Predict(request, [](std::vector<TokenId>& tokens) { tokens = WithErrors(tokens, 3, 5); });
  for (uint32_t done = 1; done < 24; done += 5) {
    EngineBench bench(model_);
    auto rest = request;
    rest.request.prompt.insert(rest.request.prompt.end(), plain.tokens.begin(), plain.tokens.begin() + done);
    rest.request.generated = done;
    rest.request.max_tokens -= done;
    ASSERT_TRUE(bench.Submit(rest).ok());
    bench.Drain();
    EXPECT_EQ(bench.Get(1).tokens, std::vector<TokenId>(plain.tokens.begin() + done, plain.tokens.end())) << done;
    EXPECT_EQ(bench.Get(1).logprob_bits, std::vector<uint32_t>(plain.logprob_bits.begin() + done, plain.logprob_bits.end())) << done;
  }
}

TEST_F(Speculation, APassThatFailsEndsOnlyItsRequest) {
  EngineBench bench(model_, {.config = {.speculative_tokens = 4}});
  auto good = MakeRequest(1, TestPrompt(5, 1), 20, GreedyParams()), bad = MakeRequest(2, TestPrompt(6, 2), 20, GreedyParams());
  const Answer plain = Predict(good);
  (void)Predict(bad);
  size_t passes = 0;
  model_.fail = [&](std::span<const SequenceSlice> batch) {
    ++passes;
    for (const SequenceSlice& slice : batch) {
      if (passes > 3 && slice.start >= 6 && slice.tokens[0] == bad.request.prediction[slice.start - 6]) return InternalError("a broken pass");
    }
    return OkStatus();
  };
  ASSERT_TRUE(bench.Submit(good).ok());
  ASSERT_TRUE(bench.Submit(bad).ok());
  bench.Drain();
  ExpectSameAnswer(bench.Get(1), plain, "beside a failure");
  EXPECT_EQ(bench.Get(2).reason, FinishReason::kError);
  ExpectClean(bench);
}

TEST_F(Speculation, BadPredictionsAreRefused) {
  EngineBench bench(model_);
  auto request = MakeRequest(1, TestPrompt(5, 1), 5);
  request.request.prediction = {3, 50};
  EXPECT_THAT(bench.Submit(request).message(), testing::HasSubstr("prediction[1] is 50"));
  request.request.prediction.assign(model_.info().max_positions + 1, 1);
  EXPECT_THAT(bench.Submit(request).message(), testing::HasSubstr("shorten it"));
  EXPECT_EQ(bench.engine->load().waiting, 0u);
}

/// Eight sequences with guesses of all kinds in one batch, against each alone.
TEST_F(Speculation, BatchesOfGuessers) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    EngineBench bench(model_, {.config = {.prefill_chunk_tokens = 5, .speculative_tokens = 6}});
    std::vector<Answer> plain;
    for (uint64_t id = 1; id <= 8; ++id) {
      auto request = MakeRequest(id, TestPrompt(1 + (seed * id) % 13, id / 2), 4 + static_cast<uint32_t>(id) * 3, id % 2 == 0 ? GreedyParams() : SeededParams(id));
      plain.push_back(Predict(request, [&](std::vector<TokenId>& tokens) { tokens = WithErrors(tokens, seed, 1 + id); }));
      ASSERT_TRUE(bench.Submit(request).ok());
    }
    bench.Drain();
    for (uint64_t id = 1; id <= 8; ++id) ExpectSameAnswer(bench.Get(id), plain[id - 1], "seed " + std::to_string(seed) + ", request " + std::to_string(id));
    ExpectClean(bench);
  }
}

}  // namespace
}  // namespace baton
