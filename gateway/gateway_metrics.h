// The gateway's counters and histograms, made once.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "base/metrics.h"

namespace baton {

/// Thread: any; Request only the gateway's loop.
class GatewayMetrics {
 public:
  GatewayMetrics();
  /// Counts one answered HTTP request. `endpoint` is one of the fixed paths, so the number of series is bounded.
  void Request(const std::string& endpoint, int http_status);
  std::string Text() const { return metrics_.Text(); }

 private:
  Metrics metrics_;
  std::map<std::pair<std::string, int>, prometheus::Counter*> requests_;

 public:
  prometheus::Gauge &connections, &running;
  prometheus::Counter &refused_connections, &disconnects, &prompt_tokens, &cached_tokens, &cache_write_tokens, &generated_tokens;
  prometheus::Histogram &first_token_s, &inter_token_s, &answer_s;
};

}  // namespace baton
