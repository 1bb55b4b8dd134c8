// Metrics: handles, the text format 0.0.4, and pages of several workers as one.
#include "base/metrics.h"

#include <cmath>
#include <set>

#include "base/metrics_merge.h"
#include "base/random.h"

namespace baton {
namespace {

struct Family {
  std::string type, help;
  std::map<std::string, double> samples;  // by name and labels
};

/// A strict reader of the text format: families in one piece, HELP before TYPE before samples, no sample twice.
std::map<std::string, Family> Read(const std::string& text) {
  std::map<std::string, Family> families;
  std::string current;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("# HELP ", 0) == 0) {
      const size_t end = line.find(' ', 7);
      current = line.substr(7, end - 7);
      EXPECT_FALSE(families.contains(current)) << current << " is in two pieces";
      families[current].help = end == std::string::npos ? "" : line.substr(end + 1);
    } else if (line.rfind("# TYPE ", 0) == 0) {
      const size_t end = line.find(' ', 7);
      EXPECT_EQ(line.substr(7, end - 7), current);
      families[current].type = line.substr(end + 1);
    } else {
      const size_t space = line.rfind(' ');
      EXPECT_NE(space, std::string::npos) << line;
      EXPECT_EQ(line.rfind(current, 0), 0u) << line << " is not of " << current;
      const std::string value = line.substr(space + 1);
      EXPECT_TRUE(families[current].samples.emplace(line.substr(0, space), std::strtod(value.c_str(), nullptr)).second) << line << " comes twice";
    }
  }
  return families;
}

TEST(MetricsTest, TheSameNameAndLabelsAreOneHandle) {
  Metrics metrics;
  auto& a = metrics.Counter("baton_a_total", "A");
  EXPECT_EQ(&a, &metrics.Counter("baton_a_total", "A"));
  EXPECT_NE(&a, &metrics.Counter("baton_a_total", "A", {{"k", "v"}}));
  EXPECT_EQ(&metrics.Gauge("baton_g", "G", {{"a", "1"}, {"b", "2"}}), &metrics.Gauge("baton_g", "G", {{"b", "2"}, {"a", "1"}}));
  a.Increment();
  metrics.Counter("baton_a_total", "A", {{"k", "v"}}).Increment(5);
  const auto families = Read(metrics.Text());
  EXPECT_EQ(families.at("baton_a_total").samples, (std::map<std::string, double>{{"baton_a_total", 1}, {"baton_a_total{k=\"v\"}", 5}}));
  EXPECT_EQ(families.at("baton_a_total").type, "counter");
  EXPECT_EQ(families.at("baton_a_total").help, "A");
}

TEST(MetricsTest, HistogramsCountUpToTheirBounds) {
  Metrics metrics;
  auto& h = metrics.Histogram("baton_h_seconds", "H", {0.5, 1, 2});
  for (const double v : {0.1, 0.5, 0.7, 1.5, 9.0}) h.Observe(v);
  const auto samples = Read(metrics.Text()).at("baton_h_seconds").samples;
  EXPECT_EQ(samples.at("baton_h_seconds_bucket{le=\"0.5\"}"), 2) << "a bound is inside";
  EXPECT_EQ(samples.at("baton_h_seconds_bucket{le=\"1\"}"), 3);
  EXPECT_EQ(samples.at("baton_h_seconds_bucket{le=\"2\"}"), 4);
  EXPECT_EQ(samples.at("baton_h_seconds_bucket{le=\"+Inf\"}"), 5);
  EXPECT_EQ(samples.at("baton_h_seconds_count"), 5);
  EXPECT_NEAR(samples.at("baton_h_seconds_sum"), 11.8, 1e-9);
}

TEST(MetricsTest, LabelValuesAreEscaped) {
  Metrics metrics;
  metrics.Counter("baton_e_total", "E", {{"k", "a\"b\\c\nd"}}).Increment();
  EXPECT_THAT(metrics.Text(), testing::HasSubstr("baton_e_total{k=\"a\\\"b\\\\c\\nd\"} 1"));
}

TEST(MetricsTest, LatencyBucketsAscend) {
  const auto& bounds = LatencyBuckets();
  EXPECT_TRUE(std::is_sorted(bounds.begin(), bounds.end()));
  EXPECT_EQ(std::set<double>(bounds.begin(), bounds.end()).size(), bounds.size());
  EXPECT_EQ(bounds.front(), 1e-4);
  EXPECT_EQ(bounds.back(), 100);
}

TEST(MetricsTest, ThreadsAddUp) {
  Metrics metrics;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&metrics] {
      for (int i = 0; i < 500; ++i) {
        metrics.Counter("baton_t_total", "T", {{"k", std::to_string(i % 3)}}).Increment();
        metrics.Histogram("baton_t_seconds", "T", {1}).Observe(0.5);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  const auto families = Read(metrics.Text());
  double sum = 0;
  for (const auto& [name, value] : families.at("baton_t_total").samples) sum += value;
  EXPECT_EQ(sum, 2000);
  EXPECT_EQ(families.at("baton_t_seconds").samples.at("baton_t_seconds_count"), 2000);
}

TEST(MetricsTest, MergedPagesKeepEverySampleUnderItsWorker) {
  Random random(6);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::unique_ptr<Metrics>> workers;
    std::vector<MetricsPage> pages;
    std::map<std::string, double> wanted;  // sample name without the worker, by worker
    for (int w = 0; w < 4; ++w) {
      workers.push_back(std::make_unique<Metrics>());
      for (uint64_t i = 0; i < random.Below(6); ++i) {
        const std::string name = "baton_m" + std::to_string(random.Below(4)) + "_total", label = std::to_string(random.Below(3));
        workers.back()->Counter(name, "help of " + name, {{"k", label}}).Increment(static_cast<double>(1 + random.Below(9)));
      }
      if (random.Below(2) == 0) workers.back()->Histogram("baton_h_seconds", "H", {1, 2}).Observe(1.5);
      const std::string worker = "w" + std::to_string(w);
      pages.push_back({worker, workers.back()->Text()});
      for (const auto& [family, values] : Read(pages.back().text)) {
        for (const auto& [sample, value] : values.samples) {
          const size_t brace = sample.find('{');
          wanted[brace == std::string::npos ? sample + "{worker=\"" + worker + "\"}" : sample.substr(0, brace + 1) + "worker=\"" + worker + "\"," + sample.substr(brace + 1)] = value;
        }
      }
    }
    std::map<std::string, double> got;
    for (const auto& [name, family] : Read(MergeMetrics(pages))) {
      EXPECT_FALSE(family.type.empty()) << name;
      got.insert(family.samples.begin(), family.samples.end());
    }
    EXPECT_EQ(got, wanted);
  }
}

}  // namespace
}  // namespace baton
