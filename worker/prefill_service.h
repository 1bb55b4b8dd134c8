// The prefill role: computes prompts for decode workers and pushes their KV over, layer by layer.
#pragma once

#include "protocol/cluster.capnp.h"
#include "worker/engine_host.h"
#include "worker/store_client.h"
#include "worker/worker_context.h"

namespace baton {

/// Thread: the loop's. Everything passed by reference outlives the service and its calls.
class PrefillService final : public wire::Prefill::Server {
 public:
  PrefillService(WorkerContext& context, EngineHost& engine, StoreClient& store) : context_(context), engine_(engine), store_(store) {}
  kj::Promise<void> prefill(PrefillContext context) override;

 private:
  WorkerContext& context_;
  EngineHost& engine_;
  StoreClient& store_;
};

}  // namespace baton
