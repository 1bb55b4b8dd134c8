#include "base/metrics_merge.h"

#include <set>
#include <sstream>

#include <fmt/format.h>

#include "base/metrics.h"
#include "base/random.h"

namespace baton {
namespace {

TEST(MergeMetrics, OneFamilyOfTwoWorkersHasOneHeader) {
  Metrics a, b;
  a.Counter("baton_x_total", "What x is").Increment(2);
  a.Gauge("baton_y", "What y is", {{"k", "v"}}).Set(5);
  b.Counter("baton_x_total", "What x is").Increment(3);
  EXPECT_EQ(MergeMetrics({{"rank-0", a.Text()}, {"rank \"1\"", b.Text()}}),
            "# HELP baton_x_total What x is\n# TYPE baton_x_total counter\n"
            "baton_x_total{worker=\"rank-0\"} 2\nbaton_x_total{worker=\"rank \\\"1\\\"\"} 3\n"
            "# HELP baton_y What y is\n# TYPE baton_y gauge\nbaton_y{worker=\"rank-0\",k=\"v\"} 5\n");
}

TEST(MergeMetrics, HistogramsKeepTheirSamplesTogether) {
  Metrics a, b;
  a.Histogram("baton_h_seconds", "h", {1, 2}).Observe(1.5);
  b.Histogram("baton_h_seconds", "h", {1, 2}).Observe(0.5);
  const std::string text = MergeMetrics({{"p", a.Text()}, {"q", b.Text()}});
  EXPECT_THAT(text, testing::HasSubstr("baton_h_seconds_bucket{worker=\"p\",le=\"1\"} 0\n"));
  EXPECT_THAT(text, testing::HasSubstr("baton_h_seconds_bucket{worker=\"q\",le=\"1\"} 1\n"));
  EXPECT_EQ(text.find("# TYPE"), text.rfind("# TYPE"));
}

TEST(MergeMetrics, GarbageIsLeftOut) {
  EXPECT_EQ(MergeMetrics({{"p", "nonsense\n\n# a comment\nlonely 3\n"}}), "");
  EXPECT_EQ(MergeMetrics({}), "");
  EXPECT_EQ(MergeMetrics({{"p", "# HELP f h\n# TYPE f gauge\nnospace\nf 1"}}), "# HELP f h\n# TYPE f gauge\nf{worker=\"p\"} 1\n");
}

/// Each sample stands under its own family's lines, in whatever order pages name them and whether they explain them or not.
TEST(MergeMetrics, AFamilyWithoutHelpIsAFamily) {
  const std::string page = "# HELP a What a is\n# TYPE a counter\na 1\n# TYPE b gauge\nb 2\n# HELP c What c is\nc 3\n# TYPE d counter\n# HELP d What d is\nd 4\n";
  EXPECT_EQ(MergeMetrics({{"p", page}}),
            "# HELP a What a is\n# TYPE a counter\na{worker=\"p\"} 1\n"
            "# TYPE b gauge\nb{worker=\"p\"} 2\n"
            "# HELP c What c is\nc{worker=\"p\"} 3\n"
            "# TYPE d counter\n# HELP d What d is\nd{worker=\"p\"} 4\n");
}

TEST(MergeMetrics, PagesInAnotherOrderMeetFamilyByFamily) {
  const std::string first = "# HELP a A\n# TYPE a counter\na{x=\"1\"} 1\n# HELP b B\n# TYPE b counter\nb 1\n", second = "# HELP b B\n# TYPE b counter\nb 2\n# HELP a A\n# TYPE a counter\na{x=\"1\"} 2\n",
                    third = "# HELP c C\n# TYPE c counter\nc 3\n# HELP a A\n# TYPE a counter\n";
  EXPECT_EQ(MergeMetrics({{"p", first}, {"q", second}, {"r", third}}),
            "# HELP a A\n# TYPE a counter\na{worker=\"p\",x=\"1\"} 1\na{worker=\"q\",x=\"1\"} 2\n"
            "# HELP b B\n# TYPE b counter\nb{worker=\"p\"} 1\nb{worker=\"q\"} 2\n"
            "# HELP c C\n# TYPE c counter\nc{worker=\"r\"} 3\n");
}

/// What values and labels may be: the merge adds a label and changes nothing else.
TEST(MergeMetrics, ValuesAndLabelsStayAsTheyAre) {
  const std::pair<const char*, const char*> cases[] = {
      {"m NaN", "m{worker=\"w\"} NaN"},
      {"m +Inf", "m{worker=\"w\"} +Inf"},
      {"m -1.5e-300", "m{worker=\"w\"} -1.5e-300"},
      {"m 3 1700000000000", "m{worker=\"w\"} 3 1700000000000"},
      {"m{} 1", "m{worker=\"w\"} 1"},
      {"m{le=\"+Inf\"} 7", "m{worker=\"w\",le=\"+Inf\"} 7"},
      {"m{text=\"a b { } \\\" \\\\ \\n\"} 1", "m{worker=\"w\",text=\"a b { } \\\" \\\\ \\n\"} 1"},
      {"m_bucket{a=\"1\",b=\"2\"} 1", "m_bucket{worker=\"w\",a=\"1\",b=\"2\"} 1"},
  };
  for (const auto& [in, out] : cases) EXPECT_EQ(MergeMetrics({{"w", std::string("# TYPE m gauge\n") + in + "\n"}}), std::string("# TYPE m gauge\n") + out + "\n");
}

TEST(MergeMetrics, AWorkersNameIsOneLabelWhateverItHolds) {
  const std::pair<const char*, const char*> cases[] = {{"", ""}, {"a\"b", "a\\\"b"}, {"a\\", "a\\\\"}, {"two\nlines", "two lines"}, {"\"} 1\nevil 2", "\\\"} 1 evil 2"}};
  for (const auto& [worker, label] : cases) {
    EXPECT_EQ(MergeMetrics({{worker, "# TYPE m gauge\nm 1\n"}}), fmt::format("# TYPE m gauge\nm{{worker=\"{}\"}} 1\n", label)) << worker;
  }
}

/// Every sample of every page comes out once, under its family's header, whatever the pages are made of.
TEST(MergeMetrics, NothingIsLostOrDoubled) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Random random(seed);
    std::vector<MetricsPage> pages;
    std::multiset<std::string> expected;
    for (size_t p = 1 + random.Below(4); p > 0; --p) {
      Metrics metrics;
      const std::string worker = "rank-" + std::to_string(p);
      for (size_t n = random.Below(8); n > 0; --n) {
        const uint64_t which = random.Below(5), value = random.Below(100);
        const std::string label = std::to_string(random.Below(3));
        metrics.Gauge("m" + std::to_string(which), "help", {{"k", label}}).Set(static_cast<double>(value));
      }
      const std::string text = metrics.Text();
      for (size_t begin = 0; begin < text.size();) {
        const size_t end = text.find('\n', begin);
        const std::string line = text.substr(begin, end - begin);
        begin = end + 1;
        if (line[0] != '#') expected.insert(line.substr(0, 3) + "worker=\"" + worker + "\"," + line.substr(3));
      }
      pages.push_back({worker, text});
    }
    std::multiset<std::string> merged;
    std::set<std::string> families;
    std::string family;
    std::istringstream lines(MergeMetrics(pages));
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("# HELP ")) {
        family = line.substr(7, 2);
        EXPECT_TRUE(families.insert(family).second) << "seed " << seed << ": " << family << " begins twice";
      } else if (line[0] != '#') {
        EXPECT_EQ(line.substr(0, 2), family) << "seed " << seed;
        merged.insert(line);
      }
    }
    EXPECT_EQ(merged, expected) << "seed " << seed;
  }
}

}  // namespace
}  // namespace baton
