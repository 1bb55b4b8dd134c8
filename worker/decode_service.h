// The decode role: owns requests. It finds or has made the KV of the prompt, generates, and streams the tokens.
#pragma once

#include "protocol/cluster.capnp.h"
#include "worker/engine_host.h"
#include "worker/store_client.h"
#include "worker/worker_context.h"

namespace baton {

/// Thread: the loop's. Everything passed by reference outlives the service and its calls.
class DecodeService final : public wire::Decode::Server {
 public:
  DecodeService(WorkerContext& context, EngineHost& engine, StoreClient& store);
  kj::Promise<void> generate(GenerateContext context) override;

  /// What its calls count.
  struct Counters {
    prometheus::Counter &remote, &local, &fallback, &corrupt;
    prometheus::Histogram& exposed_s;
  };

 private:
  WorkerContext& context_;
  EngineHost& engine_;
  StoreClient& store_;
  Counters counters_;
};

}  // namespace baton
