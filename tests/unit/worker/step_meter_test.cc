#include "worker/step_meter.h"

#include "engine_support.h"

namespace baton {
namespace {

TEST(StepTokens, GoldenCases) {
  const struct {
    std::string name;
    PrefillLimits limits;
    uint32_t want;
  } cases[] = {
      {"nothing known: the budget", {.decode_rows = 3, .target_step_s = 0.08, .slowdown = 3}, 512},
      {"no answers run: what fits the step", {.target_step_s = 0.08, .slowdown = 3, .prefill_tokens_per_s = 1000, .decode_s = 0.004}, 80},
      {"a slow machine still takes 32", {.target_step_s = 0.08, .slowdown = 3, .prefill_tokens_per_s = 100}, 32},
      {"a fast one no more than the budget", {.target_step_s = 0.08, .slowdown = 3, .prefill_tokens_per_s = 1e6}, 512},
      {"no bounds: the budget", {.decode_rows = 1, .prefill_tokens_per_s = 1000, .decode_s = 0.004, .token_beside_s = 0.001}, 512},
      {"one answer: twice its step in prompt tokens", {.decode_rows = 1, .target_step_s = 0.08, .slowdown = 3, .prefill_tokens_per_s = 1000, .decode_s = 0.004, .token_beside_s = 0.001}, 1 + 8},
      {"many answers: their step is longer, and so is the prompts' share", {.decode_rows = 16, .target_step_s = 0.08, .slowdown = 3, .prefill_tokens_per_s = 1000, .decode_s = 0.02, .token_beside_s = 0.001}, 16 + 40},
      {"the longest step bounds that too", {.decode_rows = 16, .target_step_s = 0.04, .slowdown = 30, .prefill_tokens_per_s = 1000, .decode_s = 0.02, .token_beside_s = 0.001}, 16 + 40},
      {"a token's cost beside answers unknown: that of a chunk", {.decode_rows = 1, .slowdown = 3, .prefill_tokens_per_s = 1000, .decode_s = 0.004}, 1 + 8},
      {"nothing of prompts known: that of a row", {.decode_rows = 2, .slowdown = 3, .decode_s = 0.004}, 2 + 4},
      {"a prompt always gets on", {.decode_rows = 1, .slowdown = 1, .decode_s = 0.004, .token_beside_s = 0.001}, 1 + 4},
      {"even beside an answer that costs next to nothing", {.decode_rows = 1, .slowdown = 2, .decode_s = 1e-9, .token_beside_s = 1}, 1 + 4},
      {"a small budget holds", {.decode_rows = 1, .step_token_budget = 3, .slowdown = 3, .decode_s = 0.004, .token_beside_s = 0.001}, 3},
  };
  for (const auto& c : cases) EXPECT_EQ(StepTokens(c.limits), c.want) << c.name;
}

TEST(StepMeter, LearnsWhatAPromptAddsToAStep) {
  StepMeter meter;
  EXPECT_EQ(meter.ExpectedDecode(1), 0);
  EXPECT_EQ(meter.token_beside_s(), 0);
  meter.Add(1, 0, 8, 0.01);
  EXPECT_EQ(meter.token_beside_s(), 0) << "what the answer takes alone is not known yet";
  for (uint32_t i = 0; i < 100; ++i) meter.Add(1 + i % 4, i % 3, 0, 0.003 + 0.001 * (1 + i % 4 + i % 3));
  EXPECT_NEAR(meter.ExpectedDecode(1), 0.004, 3e-4);
  EXPECT_NEAR(meter.ExpectedDecode(6), 0.009, 5e-4);
  for (int i = 0; i < 30; ++i) meter.Add(2, 0, 10, 0.005 + 10 * 0.0007);
  EXPECT_NEAR(meter.token_beside_s(), 0.0007, 1e-4);
  EXPECT_EQ(meter.prefill_tokens_per_s(), 0) << "ten tokens say little about a chunk's speed";
  meter.Add(0, 0, 200, 0.2);
  EXPECT_DOUBLE_EQ(meter.prefill_tokens_per_s(), 1000);
  const double before = meter.token_beside_s();
  meter.Add(2, 0, 10, 60);  // a minute: somebody else ran
  EXPECT_LT(meter.token_beside_s(), 3 * before);
  meter.Add(2, 0, 10, 0);
  EXPECT_LT(meter.token_beside_s(), 3 * before);
}

/// On a clock that runs as a machine does, a long prompt makes no step of a running answer longer than allowed, once measured.
TEST_F(EngineTest, ALongPromptDelaysARunningAnswerNoFurtherThanAllowed) {
  constexpr double kFixed = 0.003, kRow = 0.0007;
  EngineBench bench(model_, {.config = {.prefill_slowdown = 3, .speculative_tokens = 0}, .blocks = 1400});
  size_t counted = 0;
  double step_s = 0;
  model_.fail = [&](std::span<const SequenceSlice> batch) {
    size_t rows = 0;
    for (const SequenceSlice& slice : batch) rows += slice.tokens.size();
    step_s = kFixed + kRow * static_cast<double>(rows);
    bench.clock.Advance(FromSeconds(step_s));
    return OkStatus();
  };
  ASSERT_TRUE(bench.Submit(MakeRequest(1, TestPrompt(8, 1), 900, GreedyParams())).ok());
  for (int i = 0; i < 60; ++i) bench.engine->Step();
  const double alone = kFixed + kRow;
  ASSERT_TRUE(bench.Submit(MakeRequest(2, TestPrompt(4000, 2), 1, GreedyParams())).ok());
  std::vector<double> steps;
  while (!bench.Get(2).ended && counted++ < 5000) {
    bench.engine->Step();
    steps.push_back(step_s);
  }
  ASSERT_TRUE(bench.Get(2).ended);
  ASSERT_FALSE(bench.Get(1).ended) << "the answer was to run all the while";
  std::sort(steps.begin(), steps.end());
  EXPECT_LE(steps[steps.size() * 99 / 100], 3.05 * alone);
  EXPECT_GE(steps[steps.size() / 2], 2 * alone) << "and the prompt gets what is allowed";
}

}  // namespace
}  // namespace baton
