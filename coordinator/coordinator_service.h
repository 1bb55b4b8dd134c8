// The coordinator role: the Cap'n Proto face of Coordinator.
#pragma once

#include <kj/timer.h>

#include "base/metrics.h"
#include "coordinator/coordinator.h"
#include "coordinator/held_routes.h"
#include "protocol/cluster.capnp.h"
#include "protocol/loop.h"

namespace baton {

/// Thread: the loop's. `coordinator`, `metrics` and `timer` outlive the service and every session it gave.
class CoordinatorService final : public wire::Coordinator::Server {
 public:
  CoordinatorService(Coordinator& coordinator, Metrics& metrics, kj::Timer& timer) : coordinator_(coordinator), metrics_(metrics), held_(coordinator, timer) {}

  kj::Promise<void> register_(RegisterContext context) override;
  kj::Promise<void> route(RouteContext context) override;
  kj::Promise<void> card(CardContext context) override;
  kj::Promise<void> finished(FinishedContext context) override;
  kj::Promise<void> clusterJson(ClusterJsonContext context) override;
  kj::Promise<void> explainRoute(ExplainRouteContext context) override;
  kj::Promise<void> explainRequest(ExplainRequestContext context) override;
  kj::Promise<void> drain(DrainContext context) override;
  kj::Promise<void> role(RoleContext context) override;
  kj::Promise<void> metrics(MetricsContext context) override;

 private:
  Coordinator& coordinator_;
  Metrics& metrics_;
  HeldRoutes held_;
};

/// Declares the silent dead, `interval` by interval, for as long as the promise lives.
kj::Promise<void> RunTicks(Coordinator& coordinator, kj::Timer& timer, Duration interval);

}  // namespace baton
