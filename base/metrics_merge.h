// Many processes' metrics as one page.
#pragma once

#include <string>
#include <vector>

namespace baton {

struct MetricsPage {
  std::string worker;  // becomes the label `worker` of every sample
  std::string text;    // Prometheus' text format
};
/// One page with each family's HELP and TYPE once and all its samples behind them, in the order families first appear. Lines
/// that are no samples are left out.
std::string MergeMetrics(const std::vector<MetricsPage>& pages);

}  // namespace baton
