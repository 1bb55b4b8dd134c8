// The route calls of requests that wait for their turn: asks the coordinator again, in its order, until each is admitted or
// refused. A call that is dropped (the client left, the gateway died) gives up its place.
//
// Thread: the loop's.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <unordered_map>
#include <vector>

#include "coordinator/coordinator.h"

namespace baton {

class HeldRoutes {
 public:
  /// `coordinator` and `timer` outlive it; it outlives the calls.
  HeldRoutes(Coordinator& coordinator, kj::Timer& timer) : coordinator_(coordinator), timer_(timer) {}

  /// The coordinator held this request: gives the decision once it is one.
  kj::Promise<RouteDecision> Wait(std::vector<BlockKey> keys, RouteQuery query);
  /// Whoever may go now goes. Also called by itself while somebody waits.
  void LetGo();
  size_t size() const { return waiting_.size(); }

 private:
  struct Waiting {
    uint64_t number;
    std::vector<BlockKey> keys;
    RouteQuery query;
    kj::Own<kj::PromiseFulfiller<RouteDecision>> done;
  };
  void GiveUp(RequestId request, uint64_t number);
  kj::Promise<void> Run();

  Coordinator& coordinator_;
  kj::Timer& timer_;
  std::unordered_map<RequestId, Waiting> waiting_;
  uint64_t next_number_ = 1;
  kj::Promise<void> running_ = nullptr;
  bool runs_ = false;
};

}  // namespace baton
