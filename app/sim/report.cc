#include "app/sim/report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace baton {

std::string SimReport::Json() const {
  const auto spread = [](const SimHistogram& h) {
    return nlohmann::ordered_json{{"p50", h.Percentile(0.5)}, {"p90", h.Percentile(0.9)}, {"p99", h.Percentile(0.99)}, {"mean", h.mean()}, {"max", h.max()}};
  };
  const double span = std::max(seconds, 1e-9);
  return nlohmann::ordered_json{{"requests", requests}, {"completed", completed}, {"refused", refused}, {"invalid", invalid}, {"moved", moved},
                                {"seconds", seconds}, {"ttft_s", spread(ttft_s)}, {"itl_s", spread(itl_s)}, {"request_s", spread(request_s)},
                                {"hit_ratio", hit_ratio()}, {"goodput_per_s", goodput_per_s()},
                                {"good_share", good_share()},
                                {"answer_tokens_per_s", static_cast<double>(answer_tokens) / span},
                                {"local_prefill_share", routed == 0 ? 0.0 : static_cast<double>(local_prefills) / static_cast<double>(routed)},
                                {"prediction_error", spread(prediction_error)}, {"busy_share", busy_share},
                                {"preemptions", preemptions}, {"store_memory_reads", store_memory_reads}, {"store_disk_reads", store_disk_reads},
                                {"store_evictions", store_evictions}}.dump();
}

}  // namespace baton
