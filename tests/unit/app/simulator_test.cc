#include "app/sim/simulator.h"

#include "app/cli.h"
#include "tests/support/test_pch.h"
#include "tests/unit/app/sim_support.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

std::vector<BlockKey> Keys(std::vector<uint64_t> ids) {
  TraceRequest request;
  request.prompt_tokens = static_cast<uint32_t>(ids.size()) * kTraceBlockTokens;
  request.hash_ids = std::move(ids);
  return request.Keys();
}

// ---- cache ----

TEST(SimCache, MatchesPrefixesAndEvictsEndsFirst) {
  SimCache cache(4);
  const auto chain = Keys({1, 2, 3, 4});
  cache.Insert(chain);
  EXPECT_EQ(cache.Match(chain), 4u);
  cache.Insert(Keys({1, 9}));
  EXPECT_EQ(cache.Match(chain), 3u) << "the end of the older chain went";
  EXPECT_EQ(cache.Match(Keys({1, 9})), 2u);
  EXPECT_EQ(cache.size(), 4u);
  cache.Insert(Keys({11, 12, 13, 14, 15, 16}));
  EXPECT_EQ(cache.Match(Keys({11, 12, 13, 14, 15, 16})), 4u) << "of what does not fit the beginning stays";
}

TEST(SimCache, PinnedBlocksStay) {
  SimCache cache(3);
  const auto chain = Keys({1, 2});
  cache.Pin(chain);
  cache.Pin(chain);
  cache.Insert(Keys({5, 6, 7}));
  EXPECT_EQ(cache.Match(chain), 2u);
  EXPECT_EQ(cache.size(), 3u);
  EXPECT_EQ(cache.pinned(), 2u);
  cache.Unpin(chain);
  cache.SetCapacity(0);
  EXPECT_EQ(cache.Match(chain), 2u) << "pinned twice";
  EXPECT_EQ(cache.Unpinned(Keys({1, 2, 3})), 1u);
  cache.Unpin(chain);
  EXPECT_EQ(cache.size(), 0u);
}

TEST(SimCache, ChangesAreWhatIsNow) {
  SimCache cache(2);
  const auto a = Keys({1, 2}), b = Keys({3, 4});
  cache.Insert(a);
  cache.Insert(b);
  std::map<BlockKey, bool> changes;
  for (const HeldChange& change : cache.DrainChanges()) changes[change.key] = change.added;
  EXPECT_EQ(changes, (std::map<BlockKey, bool>{{a[0], false}, {a[1], false}, {b[0], true}, {b[1], true}}));
  EXPECT_TRUE(cache.DrainChanges().empty());
}

// ---- worker ----

SimWorkerConfig WorkerConfig() {
  SimWorkerConfig config;
  config.cost = {0.01, 0.001, 1000};
  config.step_token_budget = 100;
  config.max_running = 2;
  config.blocks = 10;
  return config;
}
SimPrompt Prompt(size_t request, uint32_t tokens, uint32_t answer, std::span<const BlockKey> keys = {}) {
  SimPrompt prompt;
  prompt.request = request;
  prompt.tokens = tokens;
  prompt.answer_tokens = answer;
  prompt.keys = keys;
  return prompt;
}

TEST(SimWorker, AStepTakesItsCost) {
  SimWorker worker(WorkerConfig(), kTraceBlockTokens);
  EXPECT_EQ(worker.BeginStep(0), 0) << "nothing to do";
  worker.Enqueue(Prompt(1, 150, 3));
  EXPECT_NEAR(worker.BeginStep(0), 0.01 + 100 / 1000.0, 1e-12) << "the budget's chunk";
  EXPECT_EQ(worker.BeginStep(0), 0) << "one step at a time";
  EXPECT_TRUE(worker.EndStep().prefilled.empty());
  EXPECT_NEAR(worker.BeginStep(0), 0.01 + 50 / 1000.0, 1e-12);
  EXPECT_EQ(worker.EndStep().prefilled.size(), 1u);
  EXPECT_NEAR(worker.BeginStep(0), 0.011, 1e-12) << "one stream decodes";
  EXPECT_TRUE(worker.EndStep().ended.empty());
  worker.BeginStep(0);
  EXPECT_THAT(worker.EndStep().ended, ElementsAre(1u)) << "three tokens: one of the prompt, two of steps";
  EXPECT_EQ(worker.load().free_blocks, 10u);
}

TEST(SimWorker, DecodeRowsComeBeforePrompts) {
  SimWorker worker(WorkerConfig(), kTraceBlockTokens);
  worker.AddStream({1, 100, 5, {}});
  worker.Enqueue(Prompt(2, 500, 1));
  EXPECT_NEAR(worker.BeginStep(0), 0.01 + 0.001 + 99 / 1000.0, 1e-12);
  const SimStepResult result = worker.EndStep();
  EXPECT_EQ(result.streams, 1u);
}

TEST(SimWorker, TheBatchAndTheBlocksAreLimits) {
  SimWorker worker(WorkerConfig(), kTraceBlockTokens);
  for (size_t r = 0; r < 3; ++r) worker.AddStream({r, 100, 2, {}});
  worker.BeginStep(0);
  EXPECT_EQ(worker.load().running, 2u);
  EXPECT_EQ(worker.load().waiting, 1u);
  worker.EndStep();
  worker.BeginStep(0);
  EXPECT_THAT(worker.EndStep().ended, UnorderedElementsAre(0u, 1u));
  SimWorker small(WorkerConfig(), kTraceBlockTokens);
  small.AddStream({1, 8 * kTraceBlockTokens - 5, 1, {}});
  small.AddStream({2, 3 * kTraceBlockTokens - 5, 1, {}});
  small.BeginStep(0);
  EXPECT_EQ(small.load().running, 1u) << "8 + 3 blocks do not fit into 10";
  EXPECT_THAT(small.EndStep().ended, ElementsAre(1u));
  small.BeginStep(0);
  EXPECT_THAT(small.EndStep().ended, ElementsAre(2u));
}

TEST(SimWorker, WhatIsLargerThanTheWorkerRunsAlone) {
  SimWorker worker(WorkerConfig(), kTraceBlockTokens);
  worker.AddStream({1, 50 * kTraceBlockTokens, 2, {}});
  worker.Enqueue(Prompt(2, 20 * kTraceBlockTokens, 1));
  EXPECT_GT(worker.BeginStep(0), 0);
  EXPECT_TRUE(worker.EndStep().ended.empty());
  EXPECT_GT(worker.BeginStep(0), 0);
  EXPECT_THAT(worker.EndStep().ended, ElementsAre(1u));
  bool ended = false;
  for (int i = 0; i < 200 && !ended; ++i) {
    ASSERT_GT(worker.BeginStep(0), 0) << "it must not wait for blocks that can never come";
    ended = !worker.EndStep().ended.empty();
  }
  EXPECT_TRUE(ended);
  EXPECT_EQ(worker.load().free_blocks, 10u);
}

TEST(SimWorker, TheLastToComeGivesItsBlocksBack) {
  SimWorkerConfig config = WorkerConfig();
  config.blocks = 3;
  SimWorker worker(config, kTraceBlockTokens);
  worker.AddStream({1, kTraceBlockTokens - 2, 600, {}});  // each will need a second block, there is one
  worker.AddStream({2, kTraceBlockTokens - 2, 600, {}});
  std::vector<size_t> ended;
  for (int i = 0; i < 5000 && ended.size() < 2; ++i) {
    ASSERT_GT(worker.BeginStep(0), 0);
    for (const size_t r : worker.EndStep().ended) ended.push_back(r);
  }
  EXPECT_THAT(ended, ElementsAre(1u, 2u));
  EXPECT_EQ(worker.preemptions(), 1u);
  EXPECT_EQ(worker.load().free_blocks, 3u);
}

TEST(SimWorker, APromptBehindTheSamePromptWaitsAndFindsIt) {
  SimWorker worker(WorkerConfig(), kTraceBlockTokens);
  const auto keys = Keys({1, 2});
  worker.Enqueue(Prompt(1, 1074, 1, keys));
  worker.Enqueue(Prompt(2, 1074, 1, keys));
  std::map<size_t, uint32_t> cached;
  for (int i = 0; i < 100 && cached.size() < 2; ++i) {
    if (worker.BeginStep(0) == 0) break;
    for (const SimPrompt& prompt : worker.EndStep().prefilled) cached[prompt.request] = prompt.cached_tokens;
  }
  EXPECT_EQ(cached, (std::map<size_t, uint32_t>{{1, 0}, {2, 1024}}));
}

TEST(SimWorker, ACachedPrefixIsNotComputedAgain) {
  SimWorker worker(WorkerConfig(), kTraceBlockTokens);
  const auto keys = Keys({1, 2});
  worker.cache().Insert(keys);
  worker.Enqueue(Prompt(1, 1074, 1, keys));
  EXPECT_NEAR(worker.BeginStep(0), 0.01 + 50 / 1000.0, 1e-12);
  const SimStepResult result = worker.EndStep();
  ASSERT_EQ(result.prefilled.size(), 1u);
  EXPECT_EQ(result.prefilled[0].cached_tokens, 1024u);
}

TEST(SimWorker, ACancelledPromptFreesItsBlocks) {
  SimWorker worker(WorkerConfig(), kTraceBlockTokens);
  const auto keys = Keys({1, 2});
  worker.cache().Insert(std::span(keys).first(1));
  worker.Enqueue(Prompt(1, 1074, 1, keys));
  worker.Enqueue(Prompt(2, 50, 1));
  worker.BeginStep(0);
  EXPECT_EQ(worker.load().free_blocks, 8u) << "one found, one for the first chunk";
  worker.Cancel(1);
  worker.Cancel(2);
  EXPECT_TRUE(worker.EndStep().prefilled.empty());
  EXPECT_EQ(worker.load().free_blocks, 10u);
  EXPECT_EQ(worker.BeginStep(0), 0);
}

TEST(SimWorker, ACrashLosesEverythingAndSaysWhat) {
  SimWorker worker(WorkerConfig(), kTraceBlockTokens);
  worker.AddStream({1, 100, 10, {}});
  worker.BeginStep(0);
  worker.EndStep();
  worker.Enqueue(Prompt(2, 500, 1));
  worker.BeginStep(0);
  const auto lost = worker.Crash();
  ASSERT_EQ(lost.size(), 2u);
  EXPECT_EQ(lost[0].request, 1u);
  EXPECT_EQ(lost[0].tokens_left, 9u) << "one was sent";
  EXPECT_EQ(lost[1].request, 2u);
  EXPECT_EQ(lost[1].tokens_left, 0u);
  EXPECT_EQ(worker.BeginStep(0), 0);
  EXPECT_EQ(worker.load().free_blocks, 10u);
}

// ---- histogram ----

TEST(SimHistogram, PercentilesAreRightWithinAPercent) {
  SimHistogram h;
  EXPECT_EQ(h.Percentile(0.5), 0);
  for (int i = 1; i <= 1000; ++i) h.Add(i * 0.001);
  EXPECT_NEAR(h.Percentile(0.5), 0.5, 0.006);
  EXPECT_NEAR(h.Percentile(0.99), 0.99, 0.011);
  EXPECT_NEAR(h.mean(), 0.5005, 1e-9);
  EXPECT_EQ(h.Percentile(1), 1.0);
  h.Add(0, 5000);
  EXPECT_EQ(h.Percentile(0.5), 0);
}

// ---- the whole ----

TraceRequest Ask(double at_s, uint32_t prompt, uint32_t answer, std::vector<uint64_t> ids) {
  TraceRequest request;
  request.at_s = at_s;
  request.prompt_tokens = prompt;
  request.answer_tokens = answer;
  request.hash_ids = std::move(ids);
  return request;
}

TEST(Simulator, OneRequestTakesWhatItsStepsTake) {
  SimConfig config;
  config.worker.cost = {0.01, 0, 1000};
  config.worker.step_token_budget = config.worker.prefill_chunk_tokens = 10'000;
  config.prefill_workers = 0;
  const auto report = Simulate(config, {Ask(0, 500, 11, {0})});
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->completed, 1u);
  EXPECT_NEAR(report->ttft_s.max(), 0.51, 1e-6);
  EXPECT_NEAR(report->request_s.max(), 0.51 + 10 * 0.01, 1e-6);
  EXPECT_EQ(report->itl_s.count(), 10u);
  EXPECT_EQ(report->local_prefills, 1u);
}

TEST(Simulator, TheSecondTurnFindsTheFirst) {
  for (const uint32_t store_blocks : {0u, 100u}) {
    SimConfig config;
    config.store_blocks = store_blocks;
    const auto report = Simulate(config, {Ask(0, 1024, 10, {0, 1}), Ask(30, 2048, 10, {0, 1, 2, 3})});
    ASSERT_TRUE(report.ok());
    EXPECT_NEAR(report->hit_ratio(), 1024.0 / 3072, 1e-9);
  }
}

std::vector<TraceRequest> Busy(size_t requests, double every_s) {
  std::vector<TraceRequest> trace;
  for (size_t i = 0; i < requests; ++i) trace.push_back(Ask(static_cast<double>(i) * every_s, 2000, 50, {0, 4 * i + 1, 4 * i + 2, 4 * i + 3}));
  return trace;
}

TEST(Simulator, SameSeedSameNumbers) {
  const auto trace = Busy(200, 0.1);
  SimConfig config;
  config.prefill_workers = 2;
  const std::string first = Simulate(config, trace)->Json();
  EXPECT_EQ(Simulate(config, trace)->Json(), first);
}

TEST(Simulator, TheSeedSpreadsBunchedArrivals) {
  auto trace = Busy(200, 0);
  trace.push_back(Ask(20, 10, 1, {0}));
  SimConfig config;
  const std::string first = Simulate(config, trace)->Json();
  EXPECT_EQ(Simulate(config, trace)->Json(), first);
  config.seed = 2;
  EXPECT_NE(Simulate(config, trace)->Json(), first);
}

TEST(Simulator, OverloadIsRefusedAndTheRestIsServed) {
  SimConfig config;
  config.coordinator.admission.max_wait_s = 3;
  const auto report = Simulate(config, Busy(2000, 0.02));  // 100,000 tokens/s asked of two workers of 8,000
  ASSERT_TRUE(report.ok());
  EXPECT_GT(report->refused, 500u);
  EXPECT_EQ(report->completed + report->refused, 2000u);
  EXPECT_LT(report->ttft_s.Percentile(0.99), 3 * 2) << "who is let in does not wait much longer than the limit";
}

TEST(Simulator, KilledWorkersLoseNothing) {
  for (const char* victim : {"prefill0", "decode0", "store0"}) {
    SimConfig config;
    config.prefill_workers = config.decode_workers = 2;
    config.failures = {{victim, 5, 4}, {victim, 12, 2}};
    const auto report = Simulate(config, Busy(300, 0.1));
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report->completed, 300u) << victim;
    EXPECT_EQ(report->moved > 0, std::string(victim) != "store0") << victim;
  }
}

TEST(Simulator, TheOnlyDecodeWorkerMayDie) {
  SimConfig config;
  config.failures = {{"decode0", 5, 4}};
  EXPECT_EQ(Simulate(config, Busy(100, 0.2))->completed, 100u) << "the prefill worker takes both roles";
  config.prefill_workers = 0;
  const auto alone = Simulate(config, Busy(100, 0.2));
  EXPECT_EQ(alone->completed + alone->refused, 100u) << "without anybody new requests are refused, started ones go on later";
  EXPECT_GT(alone->refused, 10u);
}

TEST(Simulator, CostBeatsRoundRobinWherePrefixesAreShared) {
  std::vector<TraceRequest> trace;  // 7 conversations that grow, turn by turn, on 4 workers
  for (uint64_t turn = 0; turn < 12; ++turn) {
    for (uint64_t c = 0; c < 7; ++c) {
      std::vector<uint64_t> ids;
      for (uint64_t i = 0; i <= turn; ++i) ids.push_back(c * 100 + i);
      trace.push_back(Ask(static_cast<double>(turn * 7 + c) * 0.15, static_cast<uint32_t>((turn + 1) * 512), 20, ids));
    }
  }
  SimConfig config;
  config.prefill_workers = 0;
  config.decode_workers = 4;
  config.store_blocks = 0;
  const auto cost = Simulate(config, trace);
  config.coordinator.router.policy = RoutePolicy::kRoundRobin;
  const auto turns = Simulate(config, trace);
  EXPECT_GT(cost->hit_ratio(), turns->hit_ratio() + 0.1);
  EXPECT_LT(cost->ttft_s.Percentile(0.5), turns->ttft_s.Percentile(0.5));
}

TEST(Simulator, BadConfigurations) {
  SimConfig config;
  config.prefill_workers = config.decode_workers = 0;
  EXPECT_THAT(Simulate(config, Busy(1, 1)).status().message(), HasSubstr("needs workers"));
  config = {};
  config.rate_scale = 0;
  EXPECT_EQ(Simulate(config, Busy(1, 1)).status().code(), StatusCode::kInvalid);
  config = {};
  config.failures = {{"decode7", 1, 1}};
  EXPECT_THAT(Simulate(config, Busy(1, 1)).status().message(), HasSubstr("decode7"));
  config.failures = {{"", 1, 1}};
  EXPECT_FALSE(Simulate(config, Busy(1, 1)).ok());
}

// ---- commands ----

class SimCommands : public TraceFileTest {
 protected:
  /// The program's exit code and what it printed.
  static std::pair<int, std::string> Run(std::vector<std::string> arguments) {
    CommandLine line;
    line.arguments = std::move(arguments);
    ::testing::internal::CaptureStdout();
    const int code = RunProgram(line);
    return {code, ::testing::internal::GetCapturedStdout()};
  }
};

TEST_F(SimCommands, SimulatePrintsOneJsonObject) {
  const std::string path = Write(R"({"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 7, 8]})");
  const auto [code, text] = Run({"simulate", "--trace", path, "--requests", "50", "--json", "--fail", "decode0@10+5"});
  EXPECT_EQ(code, 0);
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["requests"], 50);
  for (const char* name : {"ttft_s", "itl_s"}) EXPECT_TRUE(json[name]["p99"].is_number()) << name;
  EXPECT_EQ(Run({"simulate", "--trace", path, "--fail", "decode0"}).first, 2);
  EXPECT_EQ(Run({"simulate", "--trace", path, "--fail", "decode0@x"}).first, 2);
  EXPECT_EQ(Run({"simulate", "--trace", "/nonexistent"}).first, 2);
  EXPECT_EQ(Run({"simulate"}).first, 2);
}

TEST_F(SimCommands, BenchRouterPrintsItsFigures) {
  const auto [code, text] = Run({"bench", "router", "--workers", "4", "--blocks", "5000", "--requests", "200", "--json"});
  EXPECT_EQ(code, 0);
  const auto json = nlohmann::json::parse(text);
  EXPECT_GT(json["decisions_per_s"], 0);
  EXPECT_EQ(json["holder_blocks"], 5000);
  for (const char* name : {"p50_us", "p99_us", "bytes_per_block", "lookup_p50_ns"}) EXPECT_GT(json[name], 0) << name;
  const std::string path = Write(R"({"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 7, 8]})");
  EXPECT_EQ(Run({"bench", "router", "--workers", "4", "--trace", path, "--json"}).first, 0);
}

}  // namespace
}  // namespace baton
