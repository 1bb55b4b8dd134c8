// What a worker's services stand on. Built by the program (app/), passed by reference, outlives every service.
#pragma once

#include <kj/timer.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "kvstore/block_pool.h"
#include "model/kv_layout.h"
#include "protocol/loop.h"
#include "protocol/member.h"
#include "protocol/membership_view.h"
#include "protocol/peers.h"
#include "transport/transfer_pump.h"

namespace baton {

/// Numbers transfers so that no two of a cluster are ever equal: worker, incarnation, count.
class TransferIds {
 public:
  void Restart(WorkerId self, Incarnation incarnation) {
    base_ = (uint64_t{self.value & 0xffff} << 48) | ((incarnation.value & 0xffff) << 32);
  }
  TransferId Next() { return TransferId(base_ | (++count_ & 0xffffffff)); }

 private:
  uint64_t base_ = 0, count_ = 0;
};

struct WorkerContext {
  LoopQueue& loop;
  kj::Timer& timer;
  const Clock& clock;
  Metrics& metrics;
  BlockPool& pool;
  const KvLayout layout;
  TransferPump& pump;
  PeerTable& peers;
  const MembershipView& members;
  TransferIds transfer_ids;
  WorkerId self;
  Incarnation incarnation;
  Duration transfer_timeout;

  /// Names this worker as the receiver of a transfer.
  void WriteTarget(TransferId id, wire::TransferTarget::Builder out) const {
    out.setTransfer(id.value);
    out.setWorker(self.value);
    out.setIncarnation(incarnation.value);
    out.setTransportAddress(pump.address());
    out.setDeadlineS(ToSeconds(transfer_timeout));
  }
};

}  // namespace baton
