#include "base/metrics.h"

#include <prometheus/text_serializer.h>

namespace baton {

prometheus::Counter& Metrics::Counter(const std::string& name, const std::string& help, const MetricLabels& labels) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry_).Add(labels);
}
prometheus::Gauge& Metrics::Gauge(const std::string& name, const std::string& help, const MetricLabels& labels) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(*registry_).Add(labels);
}
prometheus::Histogram& Metrics::Histogram(const std::string& name, const std::string& help, const std::vector<double>& bounds,
                                          const MetricLabels& labels) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(*registry_).Add(labels, bounds);
}
std::string Metrics::Text() const { return prometheus::TextSerializer().Serialize(registry_->Collect()); }

const std::vector<double>& LatencyBuckets() {
  static const std::vector<double> kBounds = {1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1,
                                              0.25, 0.5,    1,    2.5,  5,      10,   25,   50,     100};
  return kBounds;
}

}  // namespace baton
