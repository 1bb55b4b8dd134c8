#include "base/metrics_merge.h"

#include "base/metrics.h"

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

}  // namespace
}  // namespace baton
