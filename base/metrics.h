// Counters, gauges and histograms, printed in Prometheus' text format. Names follow baton_<room>_<what>_<unit>.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace baton {

using MetricLabels = std::map<std::string, std::string>;

/// A process's metrics. Handles live as long as the registry. Thread: any.
class Metrics {
 public:
  Metrics() : registry_(std::make_shared<prometheus::Registry>()) {}
  /// The same name and labels always give the same handle.
  prometheus::Counter& Counter(const std::string& name, const std::string& help, const MetricLabels& labels = {});
  prometheus::Gauge& Gauge(const std::string& name, const std::string& help, const MetricLabels& labels = {});
  /// Bucket bounds ascend; the unit is in the name (_seconds, _bytes).
  prometheus::Histogram& Histogram(const std::string& name, const std::string& help, const std::vector<double>& bounds,
                                   const MetricLabels& labels = {});
  /// The text exposition format 0.0.4.
  std::string Text() const;

 private:
  std::shared_ptr<prometheus::Registry> registry_;
};

/// 100 µs to 100 s in 1-2.5-5 steps: for latencies.
const std::vector<double>& LatencyBuckets();

}  // namespace baton
