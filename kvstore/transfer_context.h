// What moving blocks in and out of a pool stands on. Built by the program (app/), passed by reference.
#pragma once

#include "base/clock.h"
#include "base/ids.h"
#include "kvstore/block_pool.h"
#include "protocol/cluster.capnp.h"
#include "protocol/loop.h"
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

/// Thread: the loop's.
struct TransferContext {
  LoopQueue& loop;
  const Clock& clock;
  BlockPool& pool;  // where blocks land
  TransferPump& pump;
  TransferIds& ids;
  Duration timeout;
  WorkerId self;
  Incarnation incarnation;

  /// Names this worker as the receiver of a transfer.
  void WriteTarget(TransferId id, wire::TransferTarget::Builder out) const {
    out.setTransfer(id.value);
    out.setWorker(self.value);
    out.setIncarnation(incarnation.value);
    out.setTransportAddress(pump.address());
    out.setDeadlineS(ToSeconds(timeout));
  }
};

}  // namespace baton
