// What a load test measured, and its percentiles.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/answer_stream.h"

namespace baton {

/// p50, p90, p99, mean and max of seconds, in milliseconds; zeros where nothing was measured. Percentiles are the nearest rank.
nlohmann::ordered_json Percentiles(std::vector<double> seconds);

class LoadReport {
 public:
  void Add(const StreamedAnswer& answer);
  /// One object: requests, errors by message, throughput over `seconds`, percentiles of TTFT, ITL and the whole.
  nlohmann::ordered_json Json(double seconds) const;
  uint64_t failed() const { return failed_; }

 private:
  uint64_t done_ = 0, failed_ = 0, prompt_tokens_ = 0, cached_tokens_ = 0, tokens_ = 0;
  std::vector<double> first_token_s_, gaps_s_, total_s_;
  std::map<std::string, uint64_t> errors_;
};

}  // namespace baton
