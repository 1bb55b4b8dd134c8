// Simulations of odd clusters and traces: what cannot be is refused, what never ends is ended, plots of anything are pictures.
#include <cmath>
#include <limits>

#include "app/sim/histogram.h"
#include "app/sim/html.h"
#include "app/sim/plot.h"
#include "app/sim/search.h"
#include "app/sim/simulator.h"
#include "base/random.h"
#include "tests/support/test_pch.h"
#include "tests/unit/app/run_program.h"
#include "tests/unit/app/sim_support.h"

namespace baton {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();

std::vector<TraceRequest> Requests(size_t count, double every_s, uint32_t prompt = 600, uint32_t answer = 5) {
  std::vector<TraceRequest> trace;
  for (size_t i = 0; i < count; ++i) {
    TraceRequest& request = trace.emplace_back();
    request.at_s = static_cast<double>(i) * every_s;
    request.prompt_tokens = prompt;
    request.answer_tokens = answer;
    for (size_t b = 0; b * kTraceBlockTokens < prompt; ++b) request.hash_ids.push_back(i * 100 + b);
  }
  return trace;
}

TEST(SimLimits, ValuesThatCannotBeAreRefused) {
  struct Field {
    const char* name;
    double& (*of)(SimConfig&);
    bool may_be_zero;
  };
  const std::vector<Field> fields = {{"heartbeat_s", [](SimConfig& c) -> double& { return c.heartbeat_s; }, false},
                                     {"rate_scale", [](SimConfig& c) -> double& { return c.rate_scale; }, false},
                                     {"kv_bytes_per_token", [](SimConfig& c) -> double& { return c.kv_bytes_per_token; }, false},
                                     {"transfer_bytes_per_s", [](SimConfig& c) -> double& { return c.transfer_bytes_per_s; }, false},
                                     {"store_bytes_per_s", [](SimConfig& c) -> double& { return c.store_bytes_per_s; }, false},
                                     {"store_disk_bytes_per_s", [](SimConfig& c) -> double& { return c.store_disk_bytes_per_s; }, false},
                                     {"prefill_tokens_per_s", [](SimConfig& c) -> double& { return c.worker.cost.prefill_tokens_per_s; }, false},
                                     {"base_s", [](SimConfig& c) -> double& { return c.worker.cost.base_s; }, true},
                                     {"per_stream_s", [](SimConfig& c) -> double& { return c.worker.cost.per_stream_s; }, true},
                                     {"transfer_latency_s", [](SimConfig& c) -> double& { return c.transfer_latency_s; }, true},
                                     {"slo_ttft_s", [](SimConfig& c) -> double& { return c.slo_ttft_s; }, true},
                                     {"slo_itl_s", [](SimConfig& c) -> double& { return c.slo_itl_s; }, true}};
  const auto trace = Requests(3, 0.1);
  for (const Field& field : fields) {
    for (const double value : {kNan, kInf, -kInf, -1.0, 0.0}) {
      SimConfig config;
      field.of(config) = value;
      const auto report = Simulate(config, trace);
      if (value == 0 && field.may_be_zero) {
        EXPECT_TRUE(report.ok()) << field.name << ": " << report.status().ToString();
      } else {
        EXPECT_EQ(report.status().code(), StatusCode::kInvalid) << field.name << " = " << value;
      }
    }
  }
}

TEST(SimLimits, TracesAndFailuresOfMonthsAreRefusedAtOnce) {
  SimConfig config;
  EXPECT_THAT(Simulate(config, Requests(2, 1e9)).status().message(), HasSubstr("raise --rate-scale"));
  config.rate_scale = 1e-9;
  EXPECT_THAT(Simulate(config, Requests(2, 1)).status().message(), HasSubstr("raise --rate-scale"));
  config.rate_scale = 1e9;
  EXPECT_TRUE(Simulate(config, Requests(2, 1e9)).ok()) << "a second in all";
  config = {};
  for (const auto& [at, down] : std::vector<std::pair<double, double>>{{1e9, 1}, {1, 1e9}, {kInf, 1}, {1, kInf}}) {
    config.failures = {{"decode0", at, down}};
    EXPECT_THAT(Simulate(config, Requests(1, 1)).status().message(), HasSubstr("decode0")) << at << "+" << down;
  }
}

TEST(SimLimits, AClusterThatWouldNeverEndIsGivenUp) {
  SimConfig config;
  config.heartbeat_s = 1000;
  config.coordinator.membership.dead_after_s = 10000;
  config.coordinator.admission.max_wait_s = 1e12;
  config.worker.cost = {0, 0, 1e-6};  // 600 tokens: nineteen years
  const auto report = Simulate(config, Requests(1, 1));
  EXPECT_EQ(report.status().code(), StatusCode::kExhausted);
  EXPECT_THAT(report.status().message(), testing::AllOf(HasSubstr("1 requests are still open"), HasSubstr("too slow")));
}

class EpochTraceTest : public TraceFileTest {
 protected:
  static std::string Lines(uint64_t first_ms) {
    std::string text;
    for (uint64_t i = 0; i < 5; ++i) text += fmt::format("{{\"timestamp\":{},\"input_length\":700,\"output_length\":4,\"hash_ids\":[{},{}]}}\n", first_ms + i * 250, i, i + 100);
    return text;
  }
};

TEST_F(EpochTraceTest, TimesAreFromTheFirstRequestOn) {
  const auto from_zero = ReadTrace(Write(Lines(0))), from_1970 = ReadTrace(Write(Lines(1'700'000'000'000)));
  ASSERT_TRUE(from_zero.ok() && from_1970.ok());
  for (size_t i = 0; i < from_zero->size(); ++i) {
    EXPECT_NEAR((*from_1970)[i].at_s, (*from_zero)[i].at_s, 1e-6);
    EXPECT_NEAR((*from_zero)[i].at_s, 0.25 * static_cast<double>(i), 1e-12);
  }
  const Outcome run = RunBaton({"simulate", "--trace", Write(Lines(1'700'000'000'000)), "--json"});
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.json()["completed"], 5);
  EXPECT_LT(run.json()["seconds"].get<double>(), 60) << "not since 1970";
}

TEST_F(EpochTraceTest, OddFlagsEndWithAMessage) {
  const std::string trace = Write(Lines(0));
  for (const std::vector<std::string>& flags :
       {std::vector<std::string>{"--rate-scale", "nan"}, {"--rate-scale", "0"}, {"--rate-scale", "-1"}, {"--rate-scale", "1e-300"}, {"--step-s", "nan"}, {"--step-s", "-0.1"}, {"--slo-ttft-s", "nan"},
        {"--transfer-latency-s", "-1"}, {"--prefill-tokens-per-s", "0"}, {"--kv-bytes-per-token", "inf"}, {"--prefill", "0", "--decode", "0"}, {"--block-tokens", "0"}, {"--requests", "-1"}, {"--seed", "x"},
        {"--fail", "decode0@1+inf"}, {"--fail", "decode0@inf"}, {"--fail", "decode0@1e300"}, {"--fit", "/nowhere"}, {"--fit", trace}, {"--config", "/nowhere"}, {"--search", "--search-share", "0"},
        {"--search", "--mixed-price", "nan"}}) {
    std::vector<std::string> arguments = {"simulate", "--trace", trace, "--json"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const Outcome run = RunBaton(arguments);
    EXPECT_EQ(run.code, 2) << flags.back() << run.err;
    EXPECT_EQ(run.out, "") << flags.back();
    EXPECT_THAT(run.err, testing::StartsWith("baton: ")) << flags.back();
  }
  const Outcome html = RunBaton({"simulate", "--trace", trace, "--html", "/nowhere/report.html"});
  EXPECT_EQ(html.code, 1);
  EXPECT_THAT(html.err, HasSubstr("/nowhere/report.html"));
}

TEST_F(EpochTraceTest, RequestsAreCutAndRepeated) {
  const std::string trace = Write(Lines(0));
  for (const char* count : {"1", "4", "5", "6", "23"}) {
    const Outcome run = RunBaton({"simulate", "--trace", trace, "--requests", count, "--json"});
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_EQ(run.json()["requests"].dump(), count);
    EXPECT_EQ(run.json()["completed"], run.json()["requests"]);
  }
  const auto report = RunBaton({"simulate", "--trace", trace, "--json"}).json();
  for (const char* name : {"ttft_s", "itl_s", "request_s", "prediction_error"}) {
    const auto& spread = report[name];
    EXPECT_LE(spread["p50"], spread["p90"]) << name;
    EXPECT_LE(spread["p90"], spread["p99"]) << name;
    EXPECT_LE(spread["p99"], spread["max"]) << name;
  }
  for (const char* share : {"hit_ratio", "good_share", "busy_share", "local_prefill_share"}) EXPECT_TRUE(report[share] >= 0 && report[share] <= 1) << share;
}

TEST_F(EpochTraceTest, TheTableIsTheObject) {
  const std::string trace = Write(Lines(0));
  const auto object = RunBaton({"simulate", "--trace", trace, "--json"}).json();
  std::istringstream table(RunBaton({"simulate", "--trace", trace}).out);
  size_t rows = 0;
  for (std::string line; std::getline(table, line); ++rows) {
    const std::string name = line.substr(0, line.find(' '));
    ASSERT_TRUE(object.contains(name)) << line;
    if (object[name].is_number()) {
      EXPECT_NEAR(std::strtod(line.c_str() + name.size(), nullptr), object[name].get<double>(), 1e-5 * std::abs(object[name].get<double>()) + 1e-9) << line;
    }
  }
  EXPECT_EQ(rows, object.size());
}

// ---- histograms and plots of anything ----

TEST(SimHistogramLimits, ManyAtOnceAreThatManyAlone) {
  Random random(4);
  for (int round = 0; round < 50; ++round) {
    SimHistogram weighted, single;
    uint64_t total = 0;
    for (uint64_t n = random.Below(12); n > 0; --n) {
      const double value = random.Below(4) == 0 ? 0 : std::pow(10, random.Uniform() * 10 - 5);
      const uint64_t times = random.Below(5);
      total += times;
      weighted.Add(value, times);
      for (uint64_t t = 0; t < times; ++t) single.Add(value);
    }
    EXPECT_EQ(weighted.count(), total);
    EXPECT_EQ(weighted.Cumulative(), single.Cumulative());
    EXPECT_DOUBLE_EQ(weighted.max(), single.max());
    double last_value = -1, last_share = 0;
    for (const auto& [value, share] : weighted.Cumulative()) {
      EXPECT_GT(value, last_value);
      EXPECT_GT(share, last_share);
      last_value = value, last_share = share;
    }
    if (total > 0) {
      EXPECT_DOUBLE_EQ(last_share, 1);
    }
    double before = 0;
    for (const double p : {0.0, 0.01, 0.5, 0.9, 0.99, 1.0}) {
      const double at = weighted.Percentile(p);
      EXPECT_GE(at, before) << p;
      EXPECT_LE(at, weighted.max()) << p;
      before = at;
    }
  }
  EXPECT_EQ(SimHistogram().Percentile(0.5), 0);
  EXPECT_TRUE(SimHistogram().Cumulative().empty());
}

TEST(PlotLimits, WhateverTheNumbersItIsAPicture) {
  const std::vector<std::vector<std::pair<double, double>>> lines = {{{0, 0}},
                                                                     {{0, 0}, {0, 0}},
                                                                     {{1e-300, 1e-300}, {1e-299, 1e-299}},
                                                                     {{1e9, 1e12}, {1e9 + 1e-3, 1e12}},
                                                                     {{1e18, 1}, {1e18, 2}},
                                                                     {{-5, 1}, {5, 2}},
                                                                     {{1, 1e-9}, {2, 1e9}},
                                                                     {{3, 3}, {2, 2}, {1, 1}}};
  for (const auto& points : lines) {
    for (const bool log_x : {false, true}) {
      for (const double y_max : {0.0, 1.0}) {
        const std::string svg = DrawPlot({.title = "<t&\">", .x_label = "x", .y_label = "y", .lines = {{"a", points}}, .log_x = log_x, .y_max = y_max, .marks_x = {-1, 0, 1, 1e300}});
        EXPECT_THAT(svg, testing::AllOf(Not(HasSubstr("nan")), Not(HasSubstr("inf")), HasSubstr("&lt;t&amp;&quot;&gt;"))) << points.front().first << log_x << y_max;
        EXPECT_LT(svg.size(), 20000u) << "not thousands of grid lines";
        EXPECT_TRUE(svg.starts_with("<figure>") && svg.ends_with("</figure>\n"));
      }
    }
  }
}

TEST(PlotLimits, ManyLinesHaveEachAColourOrNone) {
  Plot plot;
  for (int i = 0; i < 9; ++i) plot.lines.push_back({"line" + std::to_string(i), {{0, 1}, {1, 2}}});
  const std::string svg = DrawPlot(plot);
  for (int i = 0; i < 5; ++i) EXPECT_THAT(svg, HasSubstr("line" + std::to_string(i)));
  EXPECT_THAT(svg, Not(HasSubstr("line5"))) << "there are five colours";
}

TEST(ShortNumberTest, IsShortAndNear) {
  Random random(8);
  for (int round = 0; round < 2000; ++round) {
    const double value = std::pow(10, random.Uniform() * 18 - 6) * (random.Below(2) == 0 ? 1 : -1);
    const std::string text = ShortNumber(value);
    EXPECT_LE(text.size(), 9u) << value;
    char* end = nullptr;
    double read = std::strtod(text.c_str(), &end);
    if (*end == 'k') read *= 1e3;
    if (*end == 'M') read *= 1e6;
    if (*end == 'G') read *= 1e9;
    EXPECT_NEAR(read, value, std::abs(value) * 0.006) << text;
  }
}

TEST(SearchLimits, EveryRowIsASplitOfItsWorkers) {
  SimConfig config;
  config.worker.cost = {0.01, 0.001, 2000};
  config.slo_ttft_s = 0.5;
  config.store_blocks = 0;
  const auto result = SearchSplit(config, Requests(40, 0.2, 1500, 10), {.share = 0.99, .max_workers = 5, .prefill_price = 3, .decode_price = 1, .mixed_price = 2.5});
  ASSERT_TRUE(result.ok()) << result.status().ToString();
  std::set<std::tuple<uint32_t, uint32_t, uint32_t>> seen;
  double price = 0;
  for (const SimSearchRow& row : result->tried) {
    EXPECT_TRUE(seen.emplace(row.prefill, row.decode, row.mixed).second) << "tried twice";
    EXPECT_TRUE(row.mixed == 0 ? row.prefill > 0 && row.decode > 0 : row.prefill + row.decode == 0);
    EXPECT_LE(row.prefill + row.decode + row.mixed, 5u);
    EXPECT_DOUBLE_EQ(row.price, 3 * row.prefill + row.decode + 2.5 * row.mixed);
    EXPECT_GE(row.price, price) << "cheapest first";
    price = row.price;
  }
  std::istringstream lines(result->Json());
  size_t rows = 0;
  nlohmann::json last;
  for (std::string line; std::getline(lines, line); ++rows) last = nlohmann::json::parse(line);
  EXPECT_EQ(rows, result->tried.size() + 1);
  EXPECT_EQ(last["tried"], result->tried.size());
  EXPECT_EQ(last["found"], result->found());
}

}  // namespace
}  // namespace baton
