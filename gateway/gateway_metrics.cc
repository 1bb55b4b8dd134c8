#include "gateway/gateway_metrics.h"

namespace baton {

GatewayMetrics::GatewayMetrics()
    : connections(metrics_.Gauge("baton_gateway_connections", "Open HTTP connections")),
      running(metrics_.Gauge("baton_gateway_running_answers", "Answers being generated")),
      refused_connections(metrics_.Counter("baton_gateway_refused_connections_total", "Connections refused because gateway.max_connections were open")),
      disconnects(metrics_.Counter("baton_gateway_client_disconnects_total", "Answers cancelled because their client went away")),
      prompt_tokens(metrics_.Counter("baton_gateway_prompt_tokens_total", "Tokens of the prompts of ended answers")),
      cached_tokens(metrics_.Counter("baton_gateway_cached_tokens_total", "Tokens of those prompts whose KV was not computed again")),
      cache_write_tokens(metrics_.Counter("baton_gateway_cache_write_tokens_total", "Tokens of those prompts whose KV was stored")),
      generated_tokens(metrics_.Counter("baton_gateway_generated_tokens_total", "Tokens received from the workers")),
      first_token_s(metrics_.Histogram("baton_gateway_time_to_first_token_seconds", "From the request's last byte to its first token", LatencyBuckets())),
      inter_token_s(metrics_.Histogram("baton_gateway_inter_token_seconds", "Between two tokens of a choice", LatencyBuckets())),
      answer_s(metrics_.Histogram("baton_gateway_answer_seconds", "From the request's last byte to the end of its answer", LatencyBuckets())) {}

void GatewayMetrics::Request(const std::string& endpoint, int http_status) {
  prometheus::Counter*& counter = requests_[{endpoint, http_status}];
  if (counter == nullptr) {
    counter = &metrics_.Counter("baton_gateway_requests_total", "HTTP requests by endpoint and status",
                                {{"endpoint", endpoint}, {"status", std::to_string(http_status)}});
  }
  counter->Increment();
}

}  // namespace baton
