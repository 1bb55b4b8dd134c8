// What surrounds a simulation: failures by name, costs from measurements, the search for the cheapest split, plots and the page.
#include "app/cli.h"
#include "app/sim/fit.h"
#include "app/sim/html.h"
#include "app/sim/plot.h"
#include "app/sim/search.h"
#include "tests/support/test_pch.h"
#include "tests/unit/app/sim_support.h"

namespace baton {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// ---- failures ----

TEST(SimFailures, AreNamedByWorkerTimeAndKind) {
  const auto plain = ParseSimFailure("prefill0@100");
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->worker, "prefill0");
  EXPECT_EQ(plain->at_s, 100);
  EXPECT_EQ(plain->down_s, 30) << "the default";
  EXPECT_EQ(plain->kind, SimFailure::Kind::kKill);
  const auto full = ParseSimFailure("decode12@1.5e2+0.25:stop");
  ASSERT_TRUE(full.ok());
  EXPECT_EQ(full->worker, "decode12");
  EXPECT_EQ(full->at_s, 150);
  EXPECT_EQ(full->down_s, 0.25);
  EXPECT_EQ(full->kind, SimFailure::Kind::kStop);
  EXPECT_EQ(ParseSimFailure("store0@0+0:slow")->kind, SimFailure::Kind::kSlow);
  EXPECT_EQ(ParseSimFailure("store0@0+0:kill")->kind, SimFailure::Kind::kKill);
}

TEST(SimFailures, NonsenseIsRefusedWithAnExample) {
  for (const char* text : {"", "decode0", "decode0@", "decode0@x", "decode0@5x", "decode0@-1", "decode0@5+", "decode0@5+x", "decode0@5+-2", "decode0@5+3x", "decode0@5:",
                           "decode0@5:explode", "decode0@nan", "@:", "decode0@5+1+1"}) {
    const auto failure = ParseSimFailure(text);
    EXPECT_EQ(failure.status().code(), StatusCode::kInvalid) << text;
    EXPECT_THAT(failure.status().message(), HasSubstr("prefill0@100+30:stop")) << text;
  }
}

// ---- fit ----

TEST(SimFit, ALineThroughTheMeasuredBatches) {
  SimConfig config;
  config.worker.step_token_budget = config.worker.prefill_chunk_tokens = 500;
  // A step of 10 ms and 1 ms a stream; prompts of 1,000 tokens a second within a step.
  std::string text;
  for (const int batch : {1, 4, 16}) {
    const double step = 0.010 + 0.001 * batch;
    text += fmt::format("{{\"batch\":{},\"decode_tokens_per_s\":{},\"prefill_tokens_per_s\":{}}}\n", batch, batch / step, 500 / (0.010 + 0.5));
  }
  ASSERT_TRUE(FitText(text, config).ok());
  EXPECT_NEAR(config.worker.cost.base_s, 0.010, 1e-6);
  EXPECT_NEAR(config.worker.cost.per_stream_s, 0.001, 1e-6);
  EXPECT_NEAR(config.worker.cost.prefill_tokens_per_s, 1000, 1);
  EXPECT_NEAR(config.worker.cost.Seconds(8, 0), 0.018, 1e-6);
}

TEST(SimFit, OneBatchIsAllBase) {
  SimConfig config;
  ASSERT_TRUE(FitText("{\"decode_tokens_per_s\": 200, \"prefill_tokens_per_s\": 1500}", config).ok());
  EXPECT_NEAR(config.worker.cost.base_s, 0.005, 1e-9);
  EXPECT_EQ(config.worker.cost.per_stream_s, 0);
  EXPECT_GT(config.worker.cost.prefill_tokens_per_s, 1500) << "without the step's base";
  // A base that would explain more than all of it explains nothing.
  ASSERT_TRUE(FitText("{\"decode_tokens_per_s\": 1, \"prefill_tokens_per_s\": 1500}", config).ok());
  EXPECT_EQ(config.worker.cost.prefill_tokens_per_s, 1500);
}

TEST(SimFit, ALiveClustersMetrics) {
  SimConfig config;
  const char* page = R"(# HELP baton_worker_running_sequences Sequences in the batch
# TYPE baton_worker_running_sequences gauge
baton_worker_running_sequences{worker="2"} 2
baton_worker_running_sequences{worker="3"} 6
baton_worker_decode_step_seconds{worker="2"} 0.012
baton_worker_decode_step_seconds{worker="3"} 0.016
baton_worker_prefill_tokens_per_second{worker="2"} 0
baton_worker_prefill_tokens_per_second{worker="3"} 900
baton_worker_transfer_bytes_per_second{worker="2"} 3.5e+08
something_else 7
)";
  ASSERT_TRUE(FitText(page, config).ok());
  EXPECT_NEAR(config.worker.cost.base_s, 0.010, 1e-9);
  EXPECT_NEAR(config.worker.cost.per_stream_s, 0.001, 1e-9);
  EXPECT_EQ(config.transfer_bytes_per_s, 3.5e8);
}

TEST(SimFit, WhatSaysNothingIsRefused) {
  for (const char* text : {"", "hello", "{}", "{\"decode_tokens_per_s\": 0, \"prefill_tokens_per_s\": 10}", "{\"decode_tokens_per_s\": \"fast\"}",
                           "[1,2]", "baton_worker_decode_step_seconds 0", "{\"decode_tokens_per_s\": -5, \"prefill_tokens_per_s\": 5}"}) {
    SimConfig config;
    const Status status = FitText(text, config);
    EXPECT_EQ(status.code(), StatusCode::kInvalid) << text;
    EXPECT_THAT(status.message(), HasSubstr("bench engine")) << text;
  }
  SimConfig config;
  EXPECT_EQ(FitFile("/nonexistent/file", config).code(), StatusCode::kNotFound);
}

TEST(SimFit, NeverGivesNegativeCosts) {
  SimConfig config;  // larger batches that measured faster steps: noise
  ASSERT_TRUE(FitText("{\"batch\":1,\"decode_tokens_per_s\":50,\"prefill_tokens_per_s\":100}\n{\"batch\":8,\"decode_tokens_per_s\":800,\"prefill_tokens_per_s\":100}", config).ok());
  EXPECT_EQ(config.worker.cost.per_stream_s, 0);
  EXPECT_GT(config.worker.cost.base_s, 0);
}

// ---- search ----

std::vector<TraceRequest> Traffic(size_t requests, double every_s, uint32_t prompt, uint32_t answer) {
  std::vector<TraceRequest> trace;
  for (size_t i = 0; i < requests; ++i) {
    TraceRequest request;
    request.at_s = static_cast<double>(i) * every_s;
    request.prompt_tokens = prompt;
    request.answer_tokens = answer;
    for (size_t b = 0; b < CeilDiv(prompt, kTraceBlockTokens); ++b) request.hash_ids.push_back(i * 1000 + b);
    trace.push_back(std::move(request));
  }
  return trace;
}

SimConfig SearchConfig() {
  SimConfig config;
  config.worker.cost = {0.01, 0.001, 2000};
  config.slo_ttft_s = 3;
  config.slo_itl_s = 0.2;
  config.store_blocks = 0;
  return config;
}

TEST(SimSearch, TheCheapestThatMeetsTheGoalIsTheLastTried) {
  const auto trace = Traffic(60, 0.5, 2000, 20);  // 4,000 prompt tokens a second: two workers' work at least
  const auto result = SearchSplit(SearchConfig(), trace, {.share = 0.95, .max_workers = 8});
  ASSERT_TRUE(result.ok());
  ASSERT_TRUE(result->found());
  EXPECT_GE(result->skipped, 1u) << "one worker cannot do it";
  const SimSearchRow& best = result->tried.back();
  EXPECT_GE(best.prefill + best.decode + best.mixed, 2u);
  EXPECT_GE(best.good_share, 0.95);
  for (size_t i = 0; i + 1 < result->tried.size(); ++i) {
    EXPECT_FALSE(result->tried[i].meets);
    EXPECT_LE(result->tried[i].price, best.price);
  }
  // The row is what a simulation of that split says.
  SimConfig config = SearchConfig();
  config.prefill_workers = best.prefill;
  config.decode_workers = best.decode;
  config.mixed_workers = best.mixed;
  EXPECT_EQ(Simulate(config, trace)->good_share(), best.good_share);
}

TEST(SimSearch, PricesDecide) {
  const auto trace = Traffic(60, 0.5, 2000, 20);
  SimSearchGoal goal{.share = 0.95, .max_workers = 6};
  goal.mixed_price = 100;
  const auto split = SearchSplit(SearchConfig(), trace, goal);
  ASSERT_TRUE(split.ok() && split->found());
  EXPECT_EQ(split->tried.back().mixed, 0u);
  goal = {.share = 0.95, .max_workers = 6, .prefill_price = 100, .decode_price = 100};
  const auto mixed = SearchSplit(SearchConfig(), trace, goal);
  ASSERT_TRUE(mixed.ok() && mixed->found());
  EXPECT_GT(mixed->tried.back().mixed, 0u);
}

TEST(SimSearch, SaysWhenNothingMeetsTheGoal) {
  const auto result = SearchSplit(SearchConfig(), Traffic(100, 0.01, 4000, 20), {.max_workers = 2});
  ASSERT_TRUE(result.ok());
  EXPECT_FALSE(result->found());
  EXPECT_THAT(result->Json(), HasSubstr("\"found\":false"));
  EXPECT_THAT(result->Json(), Not(HasSubstr("cheapest")));
}

TEST(SimSearch, GoalsThatCannotBeAreRefused) {
  const auto trace = Traffic(1, 1, 100, 1);
  EXPECT_EQ(SearchSplit(SearchConfig(), trace, {.share = 0}).status().code(), StatusCode::kInvalid);
  EXPECT_EQ(SearchSplit(SearchConfig(), trace, {.share = 1.5}).status().code(), StatusCode::kInvalid);
  EXPECT_EQ(SearchSplit(SearchConfig(), trace, {.prefill_price = 0}).status().code(), StatusCode::kInvalid);
  SimConfig bad = SearchConfig();
  bad.heartbeat_s = 0;
  EXPECT_EQ(SearchSplit(bad, trace, {}).status().code(), StatusCode::kInvalid);
}

// ---- plots and the page ----

TEST(Plots, NumbersForPeople) {
  EXPECT_EQ(ShortNumber(0), "0");
  EXPECT_EQ(ShortNumber(0.01234), "0.0123");
  EXPECT_EQ(ShortNumber(999), "999");
  EXPECT_EQ(ShortNumber(1234), "1234");
  EXPECT_EQ(ShortNumber(12345), "12.3k");
  EXPECT_EQ(ShortNumber(-2.5e6), "-2.5M");
  EXPECT_EQ(ShortNumber(7e9), "7G");
}

TEST(Plots, TextIsEscaped) { EXPECT_EQ(EscapeHtml("<a href=\"x\">&</a>"), "&lt;a href=&quot;x&quot;&gt;&amp;&lt;/a&gt;"); }

/// All numbers of the polylines' points.
std::vector<std::pair<double, double>> PointsOf(const std::string& svg) {
  std::vector<std::pair<double, double>> points;
  for (size_t at = svg.find("points=\""); at != std::string::npos; at = svg.find("points=\"", at + 1)) {
    std::istringstream in(svg.substr(at + 8, svg.find('"', at + 8) - at - 8));
    for (double x, y; in >> x && in.get() == ',' && in >> y;) points.emplace_back(x, y);
  }
  return points;
}

TEST(Plots, PointsStayWithinThePicture) {
  Random random(3);
  for (int round = 0; round < 50; ++round) {
    Plot plot{.title = "t", .x_label = "x", .y_label = "y", .lines = {{"a", {}}, {"b", {}}, {"none", {}}}, .log_x = round % 2 == 0};
    const double size = std::pow(10, random.Uniform() * 12 - 6);
    for (int i = 0; i < 20; ++i) plot.lines[i % 2].points.emplace_back(i * size, random.Uniform() * size);
    const std::string svg = DrawPlot(plot);
    const auto points = PointsOf(svg);
    EXPECT_EQ(points.size(), plot.log_x ? 19u : 20u) << "zero has no place on a logarithmic axis";
    for (const auto& [x, y] : points) {
      EXPECT_TRUE(x >= 0 && x <= 520 && y >= 0 && y <= 210) << x << "," << y;
    }
    EXPECT_THAT(svg, HasSubstr(">a</span>"));
    EXPECT_THAT(svg, Not(HasSubstr("none")));
    EXPECT_THAT(svg, Not(HasSubstr("nan")));
    EXPECT_THAT(svg, Not(HasSubstr("inf")));
  }
}

TEST(Plots, NothingAndOnePointAreDrawnToo) {
  for (const bool log_x : {false, true}) {
    for (const size_t n : {0u, 1u}) {
      Plot plot{.title = "t", .lines = {{"a", std::vector<std::pair<double, double>>(n, {5, 0})}}, .log_x = log_x, .marks_x = {5, 1e9}};
      const std::string svg = DrawPlot(plot);
      EXPECT_THAT(svg, Not(HasSubstr("nan"))) << log_x << n;
      EXPECT_EQ(PointsOf(svg).size(), n);
    }
  }
}

TEST(SimHtml, IsOnePageWithoutAnythingFromElsewhere) {
  SimConfig config = SearchConfig();
  config.failures = {{"decode0", 3, 2}};
  const auto trace = Traffic(30, 0.5, 1000, 10);
  const auto report = Simulate(config, trace);
  ASSERT_TRUE(report.ok());
  const auto search = SearchSplit(SearchConfig(), trace, {.max_workers = 4});
  const std::string page = HtmlReport("<trace>", config, *report, &*search);
  EXPECT_THAT(page, HasSubstr("&lt;trace&gt;"));
  EXPECT_THAT(page, Not(HasSubstr("<trace>")));
  for (const char* elsewhere : {"http:", "https:", "src=", "@import", "url("}) EXPECT_THAT(page, Not(HasSubstr(elsewhere)));
  size_t plots = 0;
  for (size_t at = page.find("<svg"); at != std::string::npos; at = page.find("<svg", at + 1)) ++plots;
  EXPECT_EQ(plots, 6u);
  EXPECT_THAT(page, HasSubstr("class=mark")) << "the SLO and the failure";
  EXPECT_THAT(page, HasSubstr("decode0"));
  EXPECT_THAT(page, HasSubstr("class=best"));
  EXPECT_THAT(HtmlReport("t", config, *report, nullptr), Not(HasSubstr("<h2>Search")));
}

TEST(SimSpans, AddUpToTheWhole) {
  SimConfig config = SearchConfig();
  config.coordinator.admission.max_wait_s = 1;
  const auto report = Simulate(config, Traffic(200, 0.05, 3000, 7));
  ASSERT_TRUE(report.ok());
  SimSpan sum;
  for (const SimSpan& span : report->spans) {
    sum.arrived += span.arrived;
    sum.refused += span.refused;
    sum.first_tokens += span.first_tokens;
    sum.answer_tokens += span.answer_tokens;
    sum.prompt_tokens += span.prompt_tokens;
  }
  EXPECT_EQ(sum.arrived, 200u);
  EXPECT_EQ(sum.refused, report->refused);
  EXPECT_GT(sum.refused, 0u);
  EXPECT_EQ(sum.first_tokens, report->completed);
  EXPECT_EQ(sum.answer_tokens, report->answer_tokens);
  EXPECT_EQ(sum.prompt_tokens, report->prompt_tokens);
  for (const SimWorkerReport& worker : report->workers) EXPECT_TRUE(worker.busy_share >= 0 && worker.busy_share <= 1) << worker.name;
}

TEST(SimStops, AStoppedWorkerIsFoundOutOrGoesOn) {
  SimConfig config = SearchConfig();
  config.prefill_workers = 1;
  config.decode_workers = 2;
  const auto trace = Traffic(60, 0.3, 1000, 60);
  config.failures = {{"decode0", 4, 0.5, SimFailure::Kind::kStop}};
  const auto brief = Simulate(config, trace);
  EXPECT_EQ(brief->completed, 60u);
  EXPECT_EQ(brief->moved, 0u) << "shorter than the silence that counts as death";
  config.failures = {{"decode0", 4, 10, SimFailure::Kind::kStop}};
  const auto lasting = Simulate(config, trace);
  EXPECT_EQ(lasting->completed, 60u);
  EXPECT_GT(lasting->moved, 0u);
  config.failures = {{"decode0", 4, 10, SimFailure::Kind::kSlow}};
  const auto slow = Simulate(config, trace);
  EXPECT_EQ(slow->completed, 60u);
  EXPECT_EQ(slow->moved, 0u);
  config.failures.clear();
  EXPECT_GT(slow->itl_s.Percentile(0.99), 2 * Simulate(config, trace)->itl_s.Percentile(0.99));
}

// ---- the command ----

class SimulateCommandTest : public TraceFileTest {
 protected:
  static std::pair<int, std::string> Run(std::vector<std::string> arguments) {
    CommandLine line;
    line.arguments = std::move(arguments);
    ::testing::internal::CaptureStdout();
    const int code = RunProgram(line);
    return {code, ::testing::internal::GetCapturedStdout()};
  }
  std::string Trace() {
    std::string text;
    for (int i = 0; i < 20; ++i) {
      text += fmt::format("{{\"timestamp\": {}, \"input_length\": 600, \"output_length\": 8, \"hash_ids\": [{}, {}]}}\n", i * 500, 2 * i, 2 * i + 1);
    }
    return Write(text);
  }
};

TEST_F(SimulateCommandTest, SearchPrintsRowsAndTheCheapest) {
  const auto [code, text] = Run({"simulate", "--trace", Trace(), "--search", "--search-workers", "4", "--json"});
  EXPECT_EQ(code, 0);
  std::istringstream lines(text);
  nlohmann::json last;
  for (std::string line; std::getline(lines, line);) last = nlohmann::json::parse(line);
  EXPECT_TRUE(last["found"]);
  EXPECT_TRUE(last["cheapest"]["meets"]);
  EXPECT_EQ(Run({"simulate", "--trace", Trace(), "--search", "--slo-ttft-s", "0.0001"}).first, 1);
  EXPECT_EQ(Run({"simulate", "--trace", Trace(), "--search", "--fail", "decode0@1"}).first, 2);
  EXPECT_EQ(Run({"simulate", "--trace", Trace(), "--search-workers", "4"}).first, 2) << "needs --search";
}

TEST_F(SimulateCommandTest, FitAndHtml) {
  const std::string fit = folder_ / "bench.json", html = folder_ / "report.html";
  std::ofstream(fit) << "{\"batch\":1,\"decode_tokens_per_s\":10,\"prefill_tokens_per_s\":1000}\n";
  const auto [code, text] = Run({"simulate", "--trace", Trace(), "--fit", fit, "--html", html, "--json"});
  EXPECT_EQ(code, 0);
  EXPECT_NEAR(nlohmann::json::parse(text)["itl_s"]["p50"].get<double>(), 0.1, 0.01) << "ten tokens a second";
  EXPECT_GT(std::filesystem::file_size(html), 5000u);
  EXPECT_EQ(Run({"simulate", "--trace", Trace(), "--fit", folder_ / "nothing"}).first, 2);
  EXPECT_NE(Run({"simulate", "--trace", Trace(), "--html", "/nonexistent/dir/x.html"}).first, 0);
}

TEST_F(SimulateCommandTest, ScaleIsOtherConversationsAtOnce) {
  const auto one = nlohmann::json::parse(Run({"simulate", "--trace", Trace(), "--json"}).second);
  const auto many = nlohmann::json::parse(Run({"simulate", "--trace", Trace(), "--scale", "10", "--json"}).second);
  EXPECT_EQ(many["requests"], 200);
  EXPECT_LT(many["seconds"].get<double>(), one["seconds"].get<double>() + 70) << "at once, not one after the other";
  EXPECT_EQ(many["hit_ratio"], one["hit_ratio"]) << "they share nothing";
}

}  // namespace
}  // namespace baton
