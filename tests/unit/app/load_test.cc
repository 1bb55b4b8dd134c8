// Load reports and load traces against their plain definitions, over seeds.
#include "app/load_report.h"
#include "app/load_trace.h"
#include "app/trace.h"
#include "base/random.h"
#include "tests/unit/app/sim_support.h"

namespace baton {
namespace {

/// The nearest rank, by counting: the smallest value that at least a share `q` of all values do not exceed.
double Naive(const std::vector<double>& values, double q) {
  double best = 0;
  bool found = false;
  for (const double candidate : values) {
    const auto below = std::count_if(values.begin(), values.end(), [&](double v) { return v <= candidate; });
    if (static_cast<double>(below) >= q * static_cast<double>(values.size()) && (!found || candidate < best)) best = candidate, found = true;
  }
  return best;
}

TEST(PercentilesTest, AgreeWithCounting) {
  Random random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<double> seconds(1 + random.Below(60));
    for (double& s : seconds) s = random.Below(3) == 0 ? static_cast<double>(random.Below(5)) : random.Uniform() * 10;
    const auto p = Percentiles(seconds);
    for (const auto& [name, q] : std::vector<std::pair<const char*, double>>{{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"max", 1.0}}) {
      EXPECT_DOUBLE_EQ(p[name].get<double>(), Naive(seconds, q) * 1e3) << name << " of " << seconds.size();
    }
    double sum = 0;
    for (const double s : seconds) sum += s;
    EXPECT_NEAR(p["mean"].get<double>(), sum / static_cast<double>(seconds.size()) * 1e3, 1e-6);
  }
}

TEST(PercentilesTest, OfNothingAndOfOne) {
  for (const char* name : {"p50", "p90", "p99", "mean", "max"}) {
    EXPECT_EQ(Percentiles({})[name], 0) << name;
    EXPECT_EQ(Percentiles({0.25})[name], 250) << name;
  }
}

StreamedAnswer Answer(double first, double total, std::vector<double> gaps, uint64_t tokens, uint64_t prompt, uint64_t cached) {
  StreamedAnswer a;
  a.status = 200;
  a.first_token_s = first;
  a.total_s = total;
  a.gaps_s = std::move(gaps);
  a.tokens = tokens;
  a.prompt_tokens = prompt;
  a.cached_tokens = cached;
  return a;
}

TEST(LoadReportJson, AddsUpWhatWasMeasured) {
  LoadReport report;
  report.Add(Answer(0.1, 1, {0.3, 0.3, 0.3}, 4, 100, 0));
  report.Add(Answer(0.2, 2, {0.6}, 2, 300, 200));
  for (const auto& [status, error] : std::vector<std::pair<int, std::string>>{{429, "full"}, {429, "full"}, {0, "cannot be reached"}, {200, "the stream broke"}}) {
    StreamedAnswer failed;
    failed.status = status;
    failed.error = error;
    failed.tokens = 1000;
    failed.first_token_s = 99;
    report.Add(failed);
  }
  const auto json = report.Json(4);
  EXPECT_EQ(report.failed(), 4u);
  EXPECT_EQ(json["requests"], 6);
  EXPECT_EQ(json["failed"], 4);
  EXPECT_EQ(json["errors"], (nlohmann::ordered_json{{"429: full", 2}, {"cannot be reached", 1}, {"the stream broke", 1}}));
  EXPECT_EQ(json["requests_per_s"], 0.5) << "of those that were answered";
  EXPECT_EQ(json["generated_tokens"], 6) << "what failed counts for nothing";
  EXPECT_EQ(json["generated_tokens_per_s"], 1.5);
  EXPECT_EQ(json["cached_ratio"], 0.5);
  EXPECT_EQ(json["ttft_ms"]["max"], 200);
  EXPECT_EQ(json["itl_ms"]["p50"], 300);
  EXPECT_EQ(json["total_ms"]["mean"], 1500);
}

TEST(LoadReportJson, OfNothing) {
  const auto json = LoadReport().Json(0);
  EXPECT_EQ(json["requests"], 0);
  EXPECT_EQ(json["requests_per_s"], 0);
  EXPECT_EQ(json["cached_ratio"], 0);
  EXPECT_EQ(json["errors"], nlohmann::ordered_json::object());
}

TEST(MakeLoadTest, SharesNothingAndRepeats) {
  LoadShape shape;
  shape.vocab = 5000;
  shape.seed = 7;
  const auto load = MakeLoad(40, 64, 9, shape), again = MakeLoad(40, 64, 9, shape);
  std::set<std::vector<TokenId>> beginnings;
  for (size_t i = 0; i < load.size(); ++i) {
    EXPECT_EQ(load[i].prompt, again[i].prompt) << "the same seed, the same load";
    EXPECT_EQ(load[i].prompt.size(), 64u);
    EXPECT_EQ(load[i].max_tokens, 9u);
    EXPECT_EQ(load[i].at_s, 0);
    EXPECT_TRUE(beginnings.insert({load[i].prompt.begin(), load[i].prompt.begin() + 8}).second) << "no prefix in common";
    for (const TokenId token : load[i].prompt) EXPECT_TRUE(token >= 256 && token < 5000) << "neither bytes nor special tokens";
  }
  shape.seed = 8;
  EXPECT_NE(MakeLoad(1, 64, 9, shape)[0].prompt, load[0].prompt);
  shape.vocab = 300;
  const auto small = MakeLoad(1, 200, 1, shape);
  for (const TokenId token : small[0].prompt) EXPECT_TRUE(token >= 0 && token < 300);
  EXPECT_TRUE(MakeLoad(0, 4, 4, shape).empty());
}

class LoadTraceTest : public TraceFileTest {};

TEST_F(LoadTraceTest, RandomTracesKeepTheirShape) {
  Random random(5);
  for (int round = 0; round < 20; ++round) {
    std::string text;
    std::vector<nlohmann::json> lines;
    double at_ms = 0;
    for (uint64_t i = 0; i < 1 + random.Below(20); ++i) {
      const uint64_t prompt = 1 + random.Below(4000), answer = random.Below(800);
      nlohmann::json ids = nlohmann::json::array();
      for (uint64_t b = 0; b < (prompt + 511) / 512; ++b) ids.push_back(b < 2 ? b : random.Below(1000) + 10);
      at_ms += static_cast<double>(random.Below(2000));
      lines.push_back({{"timestamp", at_ms}, {"input_length", prompt}, {"output_length", answer}, {"hash_ids", ids}});
      text += lines.back().dump() + "\n";
    }
    LoadShape shape;
    shape.block_tokens = static_cast<uint32_t>(1 + random.Below(512));
    shape.max_positions = 512;
    shape.vocab = 2000;
    shape.speed = 1 + static_cast<double>(random.Below(10));
    const auto load = ReadLoadTrace(Write(text), shape);
    ASSERT_TRUE(load.ok()) << load.status().ToString();
    ASSERT_EQ(load->size(), lines.size());
    std::map<uint64_t, std::vector<TokenId>> block_of;
    for (size_t i = 0; i < lines.size(); ++i) {
      const LoadRequest& request = (*load)[i];
      EXPECT_NEAR(request.at_s, (lines[i]["timestamp"].get<double>() - lines[0]["timestamp"].get<double>()) / 1000 / shape.speed, 1e-9);
      EXPECT_GE(request.prompt.size(), 1u);
      EXPECT_GE(request.max_tokens, 1u);
      EXPECT_LE(request.prompt.size() + request.max_tokens, 512u) << "it fits the model";
      for (size_t b = 0; (b + 1) * shape.block_tokens <= request.prompt.size(); ++b) {
        const std::vector<TokenId> block(request.prompt.begin() + static_cast<long>(b * shape.block_tokens), request.prompt.begin() + static_cast<long>((b + 1) * shape.block_tokens));
        const auto [known, fresh] = block_of.emplace(lines[i]["hash_ids"][b].get<uint64_t>(), block);
        EXPECT_TRUE(fresh || known->second == block) << "the same id, the same tokens";
      }
    }
    shape.limit = 3;
    EXPECT_EQ(ReadLoadTrace(Write(text), shape)->size(), std::min<size_t>(3, lines.size()));
  }
}

TEST_F(LoadTraceTest, KeysOfATraceAreThoseOfItsFullBlocks) {
  for (const uint64_t length : {1ull, 511ull, 512ull, 513ull, 1024ull, 1535ull, 5120ull}) {
    nlohmann::json ids = nlohmann::json::array();
    for (uint64_t b = 0; b < (length + 511) / 512; ++b) ids.push_back(b * 3);
    const auto trace = ReadTrace(Write(nlohmann::json{{"timestamp", 0}, {"input_length", length}, {"output_length", 1}, {"hash_ids", ids}}.dump()));
    ASSERT_TRUE(trace.ok());
    const auto keys = trace->front().Keys();
    EXPECT_EQ(keys.size(), length / 512) << length;
    EXPECT_EQ(std::set<BlockKey>(keys.begin(), keys.end()).size(), keys.size());
  }
}

}  // namespace
}  // namespace baton
