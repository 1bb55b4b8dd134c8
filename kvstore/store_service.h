// The store role: serves a BlockStore to the workers of a cluster. Control by RPC, bytes by transfers; the disk is only
// touched on I/O threads.
#pragma once

#include <memory>

#include "base/metrics.h"
#include "base/task_threads.h"
#include "kvstore/block_store.h"
#include "kvstore/hold_table.h"
#include "kvstore/transfer_context.h"
#include "protocol/cluster.capnp.h"

namespace baton {

/// Thread: the loop's. What is passed by reference outlives the service and its calls. `context.pool` is where puts land
/// before they are taken: it bounds what is under way.
class StoreService final : public wire::Store::Server {
 public:
  StoreService(TransferContext& context, BlockStore& store, HoldTable& holds, TaskRunner& io)
      : context_(context), store_(store), holds_(holds), io_(io) {}

  kj::Promise<void> open(OpenContext context) override;
  kj::Promise<void> put(PutContext context) override;
  kj::Promise<void> lookup(LookupContext context) override;
  kj::Promise<void> stats(StatsContext context) override;
  kj::Promise<void> flush(FlushContext context) override;
  // store_handles.cc
  kj::Promise<void> hold(HoldContext context) override;
  kj::Promise<void> release(ReleaseContext context) override;
  kj::Promise<void> holds(HoldsContext context) override;
  kj::Promise<void> explain(ExplainContext context) override;

 private:
  TransferContext& context_;
  BlockStore& store_;
  HoldTable& holds_;
  TaskRunner& io_;
};

}  // namespace baton
