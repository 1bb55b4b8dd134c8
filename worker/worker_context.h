// What a worker's services stand on. Built by the program (app/), passed by reference, outlives every service.
#pragma once

#include <kj/timer.h>

#include "base/metrics.h"
#include "kvstore/transfer_context.h"
#include "model/kv_layout.h"
#include "protocol/membership_view.h"
#include "protocol/peers.h"

namespace baton {

struct WorkerContext : TransferContext {
  kj::Timer& timer;
  Metrics& metrics;
  PeerTable& peers;
  const MembershipView& members;
  const KvLayout layout;
};

}  // namespace baton
