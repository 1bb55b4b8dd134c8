// The wire over MPI: frames in messages between the ranks of one communicator, for clusters whose fabric only MPI knows.
// Works at MPI_THREAD_SERIALIZED: only the owner's thread calls MPI, and no call blocks. MPI cannot take back a message it
// reads from or writes into, so payloads are copied into messages that belong to the wire: what is late, cancelled or for a
// dead peer touches neither segments nor landings. A rank's death is not MPI's to tell: Disconnect and deadlines do.
#pragma once

#include <memory>

#include "transport/wire.h"

namespace baton {

/// Errors: kInvalid (MPI is not initialised, or no communicator).
Result<std::unique_ptr<Wire>> MakeMpiWire(const TransportConfig& config, WireHost& host, const Clock& clock);

}  // namespace baton
