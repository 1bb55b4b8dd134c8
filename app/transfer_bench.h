// How fast a transport moves segments between two processes, beside a plain memcpy and a plain one-stream socket loop (for mpi: a
// bare MPI loop) in the same rounds, so that the ratios hold on a busy machine.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "app/process_pair.h"
#include "base/bytes.h"
#include "base/status.h"

namespace baton {

struct TransferBench {
  std::string transport = "shm";
  uint64_t bytes = 1_MiB;                        // of a segment
  uint32_t depth = 16, rounds = 7;               // segments of a transfer; rounds of which medians are given
  uint32_t latencies = 200;                      // single transfers that are timed
  double seconds = 0.3;                          // about, of each part of a round
  bool digests = false, checksum = false;        // XXH3-128 at both ends, compared; the transport's own checksums
  uint64_t TransferBytes() const { return bytes * depth; }
};

/// The second process of a pair: receives what it is told to. Gives its exit code.
int ReceiveTransfers(const TransferBench& bench, const PairEnd& end);
/// The first: measures. The result is what `baton bench transfer --json` prints. Errors: the transport's, kDataLoss (a digest differs).
Result<nlohmann::ordered_json> SendTransfers(const TransferBench& bench, const PairEnd& end);

}  // namespace baton
