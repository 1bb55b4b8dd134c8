// A bare MPI loop as OSU's osu_bw makes it: what the library itself moves between two ranks, for measurements.
#pragma once

#include <vector>

#include "base/bytes.h"
#include "base/status.h"

namespace baton {

/// One window of messages to (or from) the other of two ranks; over when all of them are. `communicator`: MPI_Comm_c2f. Errors:
/// kUnavailable (MPI's, or a build without MPI).
Status SendWindow(int communicator, const std::vector<Bytes>& messages);
Status ReceiveWindow(int communicator, const std::vector<MutableBytes>& messages);

}  // namespace baton
