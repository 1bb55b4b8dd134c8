#include "app/load_report.h"

#include <algorithm>
#include <cmath>

namespace baton {

nlohmann::ordered_json Percentiles(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const auto at = [&seconds](double quantile) {
    if (seconds.empty()) return 0.0;
    const auto rank = static_cast<size_t>(std::ceil(quantile * static_cast<double>(seconds.size())));
    return seconds[std::max<size_t>(rank, 1) - 1] * 1e3;
  };
  double sum = 0;
  for (const double s : seconds) sum += s;
  return {{"p50", at(0.5)}, {"p90", at(0.9)}, {"p99", at(0.99)}, {"mean", seconds.empty() ? 0 : sum / static_cast<double>(seconds.size()) * 1e3}, {"max", at(1)}};
}

void LoadReport::Add(const StreamedAnswer& answer) {
  if (!answer.error.empty()) {
    ++failed_;
    ++errors_[(answer.status != 0 && answer.status != 200 ? std::to_string(answer.status) + ": " : "") + answer.error];
    return;
  }
  ++done_;
  prompt_tokens_ += answer.prompt_tokens;
  cached_tokens_ += answer.cached_tokens;
  tokens_ += answer.tokens;
  first_token_s_.push_back(answer.first_token_s);
  total_s_.push_back(answer.total_s);
  gaps_s_.insert(gaps_s_.end(), answer.gaps_s.begin(), answer.gaps_s.end());
}

nlohmann::ordered_json LoadReport::Json(double seconds) const {
  const auto rate = [seconds](uint64_t count) { return seconds > 0 ? static_cast<double>(count) / seconds : 0; };
  return {{"requests", done_ + failed_}, {"failed", failed_}, {"errors", errors_}, {"seconds", seconds}, {"requests_per_s", rate(done_)},
          {"prompt_tokens", prompt_tokens_}, {"cached_tokens", cached_tokens_},
          {"cached_ratio", prompt_tokens_ > 0 ? static_cast<double>(cached_tokens_) / static_cast<double>(prompt_tokens_) : 0},
          {"generated_tokens", tokens_}, {"generated_tokens_per_s", rate(tokens_)}, {"ttft_ms", Percentiles(first_token_s_)},
          {"itl_ms", Percentiles(gaps_s_)}, {"total_ms", Percentiles(total_s_)}};
}

}  // namespace baton
