#include "app/sim/check.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "kvstore/cache_policy.h"

namespace baton {

Status CheckSimulation(const SimConfig& c, const std::vector<TraceRequest>& trace) {
  if (c.decode_workers + c.mixed_workers == 0 && c.prefill_workers == 0) return InvalidError("a cluster needs workers: --prefill, --decode or --mixed");
  if (c.block_tokens == 0) return InvalidError("a block must have tokens");
  const double positive[] = {c.heartbeat_s,        c.transfer_bytes_per_s, c.store_bytes_per_s, c.store_disk_bytes_per_s,
                             c.kv_bytes_per_token, c.rate_scale,           c.worker.cost.prefill_tokens_per_s};
  for (const double value : positive) {
    if (!(value > 0) || !std::isfinite(value)) return InvalidError("rates, sizes and periods of a simulation must be above 0");
  }
  for (const double value : {c.worker.cost.base_s, c.worker.cost.per_stream_s, c.transfer_latency_s, c.slo_ttft_s, c.slo_itl_s}) {
    if (!(value >= 0) || value > kLongestSimulationS) return InvalidError("the times of a simulation must be from 0 to {} seconds", kLongestSimulationS);
  }
  RETURN_IF_ERROR(MakeCachePolicy(c.store_policy).status());
  for (const SimFailure& f : c.failures) {
    if (!(f.at_s + f.down_s <= kLongestSimulationS)) return InvalidError("the failure of {} ends beyond {} seconds, the longest that is simulated", f.worker, kLongestSimulationS);
    const size_t digits = std::min(f.worker.find_first_of("0123456789"), f.worker.size());
    const std::string kind = f.worker.substr(0, digits);
    const std::map<std::string, uint32_t> counts = {
        {"prefill", c.prefill_workers}, {"decode", c.decode_workers}, {"mixed", c.mixed_workers}, {"store", c.store_blocks > 0 ? 1 : 0}};
    const auto counted = counts.find(kind);
    const uint32_t count = counted == counts.end() ? 0 : counted->second;
    bool known = false;
    for (uint32_t i = 0; i < count && !known; ++i) known = f.worker == kind + std::to_string(i);
    if (!known) return InvalidError("no worker '{}' in this cluster; workers are prefill0…, decode0…, mixed0… and store0", f.worker);
  }
  const double takes_s = trace.back().at_s / c.rate_scale;
  if (!(takes_s <= kLongestSimulationS)) return InvalidError("the trace takes {:.3g} seconds, at most {} are simulated: raise --rate-scale", takes_s, kLongestSimulationS);
  return OkStatus();
}

}  // namespace baton
