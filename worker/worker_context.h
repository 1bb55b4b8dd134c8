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
  uint32_t open_calls = 0;  // generate and prefill calls, hand-offs under way: a draining worker waits for them
};

/// Counts one of a worker's open calls. Thread: the loop's.
class OpenCall {
 public:
  explicit OpenCall(WorkerContext& context) : context_(context) { ++context_.open_calls; }
  OpenCall(const OpenCall&) = delete;
  OpenCall& operator=(const OpenCall&) = delete;
  ~OpenCall() { --context_.open_calls; }

 private:
  WorkerContext& context_;
};

}  // namespace baton
