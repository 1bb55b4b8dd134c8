// The wire between transports of one process: messages in each other's inbox, pieces copied straight from the sender's
// segment into the landing by the receiver.
#pragma once

#include <memory>

#include "transport/wire.h"

namespace baton {

/// Errors: kInvalid without a hub.
Result<std::unique_ptr<Wire>> MakeLocalWire(const TransportConfig& config, WireHost& host);

}  // namespace baton
