// The engine on the fake model: how requests wait, share, fail and end, one behaviour a test.
#include "worker/engine.h"

#include "engine_support.h"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using EngineLife = EngineTest;

TEST_F(EngineLife, CancelWorksAtEveryStep) {
  const auto request = MakeRequest(1, TestPrompt(21, 3), 9, GreedyParams());
  const Answer whole = PlainAnswer(*fake_, request.request);
  BenchOptions options;
  options.config.prefill_chunk_tokens = 6;
  for (int steps = 0; steps < 14; ++steps) {
    EngineBench bench(model_, options);
    ASSERT_TRUE(bench.Submit(request).ok());
    for (int i = 0; i < steps; ++i) bench.engine->Step();
    bench.engine->Cancel(RequestId(1));
    bench.engine->Cancel(RequestId(1));
    bench.engine->Cancel(RequestId(99));  // nobody
    bench.Drain();
    Answer& got = bench.Get(1);
    EXPECT_TRUE(got.ended);
    EXPECT_EQ(got.reason, steps < 12 ? FinishReason::kCancelled : FinishReason::kLength) << steps;
    EXPECT_EQ(got.tokens.size(), std::min<size_t>(steps > 3 ? steps - 3 : 0, 9)) << steps;
    EXPECT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), whole.tokens.begin()));
    ExpectClean(bench);
  }
}

TEST_F(EngineLife, CancelFromInsideACallAndBlocksFreeBeforeTheEndIsTold) {
  EngineBench bench(model_);
  bench.recorder->on_token = [&](RequestId id, const TokenEvent&) {
    if (bench.Get(id.value).tokens.size() == 3) bench.engine->Cancel(id);
  };
  bench.recorder->on_end = [&](RequestId) { EXPECT_EQ(bench.pool->stats().referenced, 0u); };
  ASSERT_TRUE(bench.Submit(MakeRequest(1, TestPrompt(9, 1), 50, GreedyParams())).ok());
  bench.Drain();
  EXPECT_EQ(bench.Get(1).tokens.size(), 3u);
  EXPECT_EQ(bench.Get(1).reason, FinishReason::kCancelled);
}

TEST_F(EngineLife, DeadlinesEndWaitingAndRunningRequests) {
  BenchOptions options;
  options.config.max_running = 1;
  EngineBench bench(model_, options);
  for (uint64_t id = 1; id <= 3; ++id) {
    auto request = MakeRequest(id, TestPrompt(5, id), 30, GreedyParams());
    request.request.deadline_s = id == 3 ? 0 : 1;
    ASSERT_TRUE(bench.Submit(std::move(request)).ok());
  }
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(bench.engine->Step());
  bench.clock.Advance(FromSeconds(1));
  bench.Drain();
  for (uint64_t id = 1; id <= 2; ++id) {
    EXPECT_EQ(bench.Get(id).reason, FinishReason::kError);
    EXPECT_EQ(bench.Get(id).status.code(), StatusCode::kDeadline);
  }
  EXPECT_EQ(bench.Get(1).tokens.size(), 4u);
  EXPECT_EQ(bench.Get(2).stats.queue_s, 0);
  EXPECT_EQ(bench.Get(3).tokens.size(), 30u);
  EXPECT_DOUBLE_EQ(bench.Get(3).stats.queue_s, 1);
  ExpectClean(bench);
}

TEST_F(EngineLife, AFullQueueRefusesAndTheCallerKeepsItsBlocks) {
  BenchOptions options;
  options.config.max_waiting = 2;
  options.config.max_running = 1;
  EngineBench bench(model_, options);
  ASSERT_TRUE(bench.Submit(MakeRequest(1, TestPrompt(5, 1), 3)).ok());
  bench.engine->Step();
  ASSERT_TRUE(bench.Submit(MakeRequest(2, TestPrompt(5, 1), 3)).ok());
  ASSERT_TRUE(bench.Submit(MakeRequest(3, TestPrompt(5, 1), 3)).ok());
  auto refused = MakeRequest(4, TestPrompt(5, 1), 3);
  refused.blocks = *bench.pool->Allocate(2);
  const auto blocks = refused.blocks;
  const Status status = bench.Submit(std::move(refused));
  EXPECT_EQ(status.code(), StatusCode::kExhausted);
  EXPECT_THAT(status.message(), HasSubstr("engine.max_waiting"));
  for (const BlockId block : blocks) bench.pool->Unref(block);
  EXPECT_EQ(bench.engine->load().waiting, 2u);
  bench.Drain();
  EXPECT_TRUE(bench.Submit(MakeRequest(4, TestPrompt(5, 1), 3)).ok());
  bench.Drain();
  EXPECT_TRUE(bench.Get(4).ended);
  ExpectClean(bench);
}

TEST_F(EngineLife, BadRequestsAreRefusedByName) {
  EngineBench bench(model_, {.blocks = 10});
  const auto message = [&](auto change) {
    auto request = MakeRequest(1, TestPrompt(8, 1), 4);
    change(request);
    const Status status = bench.Submit(std::move(request));
    EXPECT_EQ(status.code(), StatusCode::kInvalid);
    return status.message();
  };
  EXPECT_THAT(message([](auto& r) { r.request.prompt.clear(); }), HasSubstr("prompt is empty"));
  EXPECT_THAT(message([](auto& r) { r.request.id = RequestId(); }), HasSubstr("no id"));
  EXPECT_THAT(message([](auto& r) { r.request.max_tokens = 0; }), HasSubstr("max_tokens is 0"));
  EXPECT_THAT(message([](auto& r) { r.request.max_tokens = 34; }), HasSubstr("holds 40"));
  EXPECT_THAT(message([](auto& r) { r.request.max_tokens = 0xffffffffu; }), HasSubstr("has 1048576 positions"));
  EXPECT_THAT(message([](auto& r) { r.request.prompt[3] = 50; }), HasSubstr("prompt[3] is 50"));
  EXPECT_THAT(message([](auto& r) { r.request.prompt[0] = -1; }), HasSubstr("prompt[0] is -1"));
  EXPECT_THAT(message([](auto& r) { r.request.generated = 9; }), HasSubstr("generated is 9"));
  EXPECT_THAT(message([](auto& r) { r.request.deadline_s = std::nan(""); }), HasSubstr("deadline_s"));
  EXPECT_THAT(message([](auto& r) { r.request.sampling.top_p = 2; }), HasSubstr("top_p is 2"));
  EXPECT_THAT(message([](auto& r) { r.ready_tokens = 9; }), HasSubstr("ready_tokens is 9"));
  EXPECT_THAT(message([](auto& r) { r.ready_tokens = 5; r.blocks = {BlockId(1)}; }), HasSubstr("cannot hold"));
  EXPECT_THAT(message([](auto& r) { r.cached_tokens = 1; }), HasSubstr("cached_tokens"));
  EXPECT_THAT(message([](auto& r) { r.blocks = {BlockId(10)}; }), HasSubstr("outside the pool"));
  EXPECT_THAT(message([](auto& r) { r.first_token = TokenEvent{.token = 1}; }), HasSubstr("first_token"));
  EXPECT_TRUE(bench.Submit(MakeRequest(1, TestPrompt(8, 1), 33)).ok()) << "exactly what the pool holds";
  EXPECT_THAT(message([](auto&) {}), HasSubstr("in use"));
  bench.Drain();
  EXPECT_EQ(bench.Get(1).tokens.size(), 33u);
  ExpectClean(bench);
}

TEST_F(EngineLife, AFailingSequenceHurtsNoOther) {
  EngineBench bench(model_);
  model_.fail = [](std::span<const SequenceSlice> batch) {
    for (const SequenceSlice& slice : batch) {
      if (slice.tokens[0] == 7) return InvalidError("no sevens");
    }
    return OkStatus();
  };
  for (uint64_t id = 1; id <= 4; ++id) {
    auto prompt = TestPrompt(6, id);
    std::replace(prompt.begin(), prompt.end(), 7, 8);
    if (id == 3) prompt[0] = 7;
    auto request = MakeRequest(id, prompt, 5, GreedyParams());
    request.request.sampling.logit_bias[7] = -1000;
    ASSERT_TRUE(bench.Submit(request).ok());
  }
  bench.Drain();
  for (uint64_t id = 1; id <= 4; ++id) {
    if (id == 3) {
      EXPECT_EQ(bench.Get(id).reason, FinishReason::kError);
      EXPECT_THAT(bench.Get(id).status.message(), HasSubstr("no sevens"));
    } else {
      EXPECT_EQ(bench.Get(id).tokens.size(), 5u);
    }
  }
  ExpectClean(bench);
}

TEST_F(EngineLife, ASequenceWithoutATokenLeftEndsAlone) {
  EngineBench bench(model_);
  auto doomed = MakeRequest(1, TestPrompt(4, 1), 60, GreedyParams());
  doomed.request.sampling.no_repeat_ngram = 1;
  ASSERT_TRUE(bench.Submit(doomed).ok());
  ASSERT_TRUE(bench.Submit(MakeRequest(2, TestPrompt(4, 2), 60, GreedyParams())).ok());
  bench.Drain();
  EXPECT_EQ(bench.Get(1).reason, FinishReason::kError);
  EXPECT_GE(bench.Get(1).tokens.size(), 46u);
  EXPECT_EQ(bench.Get(2).tokens.size(), 60u);
  ExpectClean(bench);
}

TEST_F(EngineLife, APreemptedRequestGoesOnWithTheSameBits) {
  EngineBench bench(model_, {.blocks = 8});
  std::vector<EngineRequest> requests;
  for (uint64_t id = 1; id <= 3; ++id) requests.push_back(MakeRequest(id, TestPrompt(6, id), 20, SeededParams(id)));
  for (const auto& request : requests) ASSERT_TRUE(bench.Submit(request).ok());
  bench.Drain();
  for (const auto& request : requests) {
    ExpectSameAnswer(bench.Get(request.request.id.value), PlainAnswer(*fake_, request.request), std::to_string(request.request.id.value));
  }
  EXPECT_GT(bench.engine->load().preemptions, 0u);
  EXPECT_GT(model_.tokens, 3 * 25u);
  ExpectClean(bench);
}

TEST_F(EngineLife, HigherPriorityRunsFirstAndLowerStillEnds) {
  BenchOptions options;
  options.config.max_running = 1;
  EngineBench bench(model_, options);
  std::vector<uint64_t> order;
  bench.recorder->on_end = [&](RequestId id) { order.push_back(id.value); };
  for (uint64_t id = 1; id <= 3; ++id) {
    auto request = MakeRequest(id, TestPrompt(6, id), 4, GreedyParams());
    request.request.priority = id == 3 ? 5 : 0;
    ASSERT_TRUE(bench.Submit(request).ok());
    bench.engine->Step();
  }
  bench.Drain();
  EXPECT_THAT(order, ElementsAre(3, 1, 2));
  for (uint64_t id = 1; id <= 3; ++id) ExpectSameAnswer(bench.Get(id), PlainAnswer(*fake_, MakeRequest(id, TestPrompt(6, id), 4, GreedyParams()).request), "priority");
  ExpectClean(bench);
}

TEST_F(EngineLife, AMovedStreamGoesOnExactly) {
  const auto request = MakeRequest(1, TestPrompt(7, 3), 16, SeededParams(77));
  const Answer whole = PlainAnswer(*fake_, request.request);
  for (uint32_t done = 1; done < 16; ++done) {
    EngineBench bench(model_);
    auto moved = request;
    moved.request.prompt.insert(moved.request.prompt.end(), whole.tokens.begin(), whole.tokens.begin() + done);
    moved.request.generated = done;
    moved.request.max_tokens = 16 - done;
    ASSERT_TRUE(bench.Submit(moved).ok());
    bench.Drain();
    EXPECT_EQ(bench.Get(1).tokens, std::vector<TokenId>(whole.tokens.begin() + done, whole.tokens.end())) << done;
    EXPECT_EQ(bench.Get(1).logprob_bits, std::vector<uint32_t>(whole.logprob_bits.begin() + done, whole.logprob_bits.end())) << done;
  }
}

TEST_F(EngineLife, TheChoicesOfOnePromptComputeItOnce) {
  BenchOptions options;
  options.config.prefill_chunk_tokens = 8;
  options.blocks = 200;
  EngineBench bench(model_, options);
  const auto prompt = TestPrompt(42, 1);
  for (uint64_t id = 1; id <= 8; ++id) ASSERT_TRUE(bench.Submit(MakeRequest(id, prompt, 3, SeededParams(id))).ok());
  bench.Drain();
  EXPECT_EQ(model_.tokens, 42u + 7 * 2 + 8 * 2);
  for (uint64_t id = 1; id <= 8; ++id) {
    EXPECT_EQ(bench.Get(id).stats.cached_tokens, id == 1 ? 0u : 40u);
    ExpectSameAnswer(bench.Get(id), PlainAnswer(*fake_, MakeRequest(id, prompt, 3, SeededParams(id)).request), "choices");
  }
  ExpectClean(bench);
}

TEST_F(EngineLife, AStepKeepsTheTokenBudget) {
  BenchOptions options;
  options.config.step_token_budget = 10;
  options.config.prefill_chunk_tokens = 7;
  EngineBench bench(model_, options);
  for (uint64_t id = 1; id <= 5; ++id) ASSERT_TRUE(bench.Submit(MakeRequest(id, TestPrompt(30, id), 10)).ok());
  bench.Drain();
  EXPECT_EQ(model_.largest_pass, 10u);
}

TEST_F(EngineLife, AMeasuredSpeedBoundsTheStep) {
  BenchOptions options;
  options.config.target_step_s = 0.1;
  options.config.step_token_budget = 400;
  options.config.prefill_chunk_tokens = 400;
  options.blocks = 500;
  EngineBench bench(model_, options);
  model_.before = [&] { bench.clock.Advance(FromSeconds(1)); };  // 400 tokens a second at first
  std::vector<size_t> steps;
  ASSERT_TRUE(bench.Submit(MakeRequest(1, TestPrompt(900, 1), 1)).ok());
  for (size_t before = 0; bench.engine->Step(); before = model_.tokens) steps.push_back(model_.tokens - before);
  ASSERT_GE(steps.size(), 3u);
  EXPECT_EQ(steps[0], 400u);
  EXPECT_EQ(steps[1], 40u);
  EXPECT_GE(*std::min_element(steps.begin(), steps.end() - 1), 32u);
}

TEST_F(EngineLife, LoadTellsWhatRunsWaitsAndHowFast) {
  BenchOptions options;
  options.config.max_running = 2;
  options.config.target_step_s = 0;
  EngineBench bench(model_, options);
  model_.before = [&] { bench.clock.Advance(FromSeconds(0.5)); };
  EXPECT_EQ(bench.engine->load().step_s, 0);
  for (uint64_t id = 1; id <= 4; ++id) ASSERT_TRUE(bench.Submit(MakeRequest(id, TestPrompt(20, id), 3)).ok());
  EXPECT_EQ(bench.engine->load().waiting, 4u);
  EXPECT_EQ(bench.engine->load().queued_prefill_tokens, 80u);
  bench.engine->Step();
  EXPECT_EQ(bench.engine->load().running, 2u);
  EXPECT_EQ(bench.engine->load().waiting, 2u);
  EXPECT_EQ(bench.engine->load().queued_prefill_tokens, 40u);
  EXPECT_DOUBLE_EQ(bench.engine->load().prefill_tokens_per_s, 80);
  EXPECT_EQ(bench.engine->load().decode_step_s, 0);
  bench.engine->Step();
  EXPECT_DOUBLE_EQ(bench.engine->load().decode_step_s, 0.5);
  EXPECT_EQ(bench.engine->load().steps, 2u);
  bench.Drain();
  const uint64_t steps = bench.engine->load().steps;
  EXPECT_FALSE(bench.engine->Step());
  EXPECT_EQ(bench.engine->load().steps, steps) << "without work there is no step";
}

/// Steps that take what a known model says are found to cost just that.
TEST_F(EngineLife, LoadTellsWhatStepsCost) {
  BenchOptions options;
  options.config.max_running = 4;
  options.config.target_step_s = 0;
  options.config.prefill_chunk_tokens = 64;
  options.blocks = 2000;
  EngineBench bench(model_, options);
  model_.fail = [&](std::span<const SequenceSlice> batch) {
    double tokens = 0, rows = 0;
    for (const SequenceSlice& slice : batch) (slice.tokens.size() == 1 ? rows : tokens) += static_cast<double>(slice.tokens.size());
    bench.clock.Advance(FromSeconds(0.01 + 0.001 * tokens + 0.002 * rows));
    return OkStatus();
  };
  EXPECT_FALSE(bench.engine->load().step_model.known());
  for (uint64_t id = 1; id <= 40; ++id) ASSERT_TRUE(bench.Submit(MakeRequest(id, TestPrompt(10 + 13 * id % 150, id), 6)).ok());
  bench.Drain();
  const StepModel model = bench.engine->load().step_model;
  ASSERT_TRUE(model.known());
  EXPECT_NEAR(model.base_s, 0.01, 0.002);
  EXPECT_NEAR(model.token_s, 0.001, 1e-4);
  EXPECT_NEAR(model.row_s, 0.002, 4e-4);
  EXPECT_LT(model.pair_s, 1e-5) << "this one does not look back";
}

}  // namespace
}  // namespace baton
