#include "coordinator/held_routes.h"

#include <utility>

namespace baton {
namespace {

constexpr kj::Duration kInterval = 10 * kj::MILLISECONDS;  // short against a prompt; one decision each time

}  // namespace

kj::Promise<RouteDecision> HeldRoutes::Wait(std::vector<BlockKey> keys, RouteQuery query) {
  auto pair = kj::newPromiseAndFulfiller<RouteDecision>();
  const RequestId request = query.request;
  const uint64_t number = next_number_++;
  // The same request again (its gateway lost the first call) takes over the place.
  waiting_.insert_or_assign(request, Waiting{number, std::move(keys), std::move(query), kj::mv(pair.fulfiller)});
  if (!std::exchange(runs_, true)) running_ = Run().eagerlyEvaluate(nullptr);
  return pair.promise.attach(kj::defer([this, request, number] { GiveUp(request, number); }));
}

void HeldRoutes::GiveUp(RequestId request, uint64_t number) {
  const auto found = waiting_.find(request);
  if (found == waiting_.end() || found->second.number != number) return;
  waiting_.erase(found);
  coordinator_.Withdraw(request);
}

void HeldRoutes::LetGo() {
  while (coordinator_.NextHeld() != RequestId()) {
    const auto found = waiting_.find(coordinator_.NextHeld());
    if (found == waiting_.end()) {  // nobody waits for the answer any more
      coordinator_.Withdraw(coordinator_.NextHeld());
      continue;
    }
    const RouteDecision& decision = coordinator_.Route(found->second.keys, found->second.query);
    if (decision.held) return;
    auto done = kj::mv(found->second.done);
    RouteDecision answer = decision;
    waiting_.erase(found);
    done->fulfill(kj::mv(answer));
  }
}

kj::Promise<void> HeldRoutes::Run() {
  if (waiting_.empty()) {
    runs_ = false;
    return kj::READY_NOW;
  }
  return timer_.afterDelay(kInterval).then([this]() {
    LetGo();
    return Run();
  });
}

}  // namespace baton
