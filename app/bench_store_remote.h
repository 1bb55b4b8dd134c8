// Blocks of a store's memory read by another process: over the transport, digests checked at both ends, as a worker fetches.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace baton {

struct RemoteGetRates {
  std::vector<double> get_mb_per_s, memcpy_mb_per_s;  // one a round; MB = 10^6 bytes, memcpy by the reading process
};
/// Thread: the main one, before there are others (it forks). Errors: kUnavailable, kExhausted, kDataLoss.
Result<RemoteGetRates> BenchRemoteGet(const std::string& transport, uint64_t block_bytes, uint64_t bytes, uint32_t rounds);

}  // namespace baton
