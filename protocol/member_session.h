// A rank's place in the cluster: registers with the coordinator, sends numbered heartbeats, keeps the membership view, and
// registers again whenever the coordinator was restarted or had declared it dead.
#pragma once

#include <kj/async.h>
#include <kj/timer.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "protocol/member.h"
#include "protocol/membership_view.h"
#include "protocol/peers.h"

namespace baton {

/// Thread: the loop's.
class MemberSession {
 public:
  /// What the session asks the worker; all are optional.
  struct Hooks {
    std::function<void(wire::Load::Builder)> load;
    std::function<std::vector<HeldChange>(bool snapshot)> changes;  // since the last call, or all that is held
    std::function<void()> on_silent;                                // the coordinator gave no answer in time: its connection is of no use
    std::function<void()> on_drain;                                 // this worker has to leave: an administrator's word, or its number is another's
  };
  /// Gives the coordinator's capability: a dialled one, or the one in this process.
  using FindCoordinator = std::function<kj::Promise<Result<wire::Coordinator::Client>>()>;

  MemberSession(kj::Timer& timer, FindCoordinator find, MemberInfo self, MembershipView& view, Duration heartbeat, Hooks hooks);

  /// Registers. Errors: kUnavailable (no coordinator answers within `timeout`: who, and what to check), kInvalid (refused:
  /// another model, a name in use).
  kj::Promise<Status> Join(Duration timeout);
  /// Ready: from now on this worker is routed to, and heartbeats run.
  kj::Promise<Status> Announce(std::string transport_kind, std::string transport_address);
  void SetDraining() { draining_ = true; }
  /// Resolves when a heartbeat that said "draining" has been answered, or the coordinator is gone.
  kj::Promise<void> DrainingKnown();

  const MemberInfo& self() const { return self_; }
  /// False while the coordinator cannot be reached.
  bool connected() const { return connected_; }
  /// The coordinator has been gone at least once.
  bool was_lost() const { return was_lost_; }
  kj::Maybe<wire::Coordinator::Client> coordinator() { return coordinator_; }

 private:
  /// After so long without an answer the coordinator counts as gone: ten heartbeats, but on a busy machine no less than two seconds.
  kj::Duration Silence() const { return std::max(10 * heartbeat_, 2 * kj::SECONDS); }
  kj::Promise<Status> Register();
  kj::Promise<Status> WatchTurns();
  bool Stalled() const { return timer_.now() - last_turn_ > Silence() + 1 * kj::SECONDS; }
  void CountHeld(const std::vector<HeldChange>& changes);
  void AskToLeave();
  kj::Promise<void> JoinUntil(kj::TimePoint deadline, kj::Own<kj::PromiseFulfiller<Status>> done);
  kj::Promise<Status> SendAnnounce();
  kj::Promise<void> HeartbeatLoop();
  kj::Promise<Status> Heartbeat();
  kj::Promise<void> Rejoin();

  kj::Timer& timer_;
  const FindCoordinator find_;
  MemberInfo self_;
  MembershipView& view_;
  const kj::Duration heartbeat_;
  const Hooks hooks_;
  kj::Maybe<wire::Coordinator::Client> coordinator_;
  wire::WorkerSession::Client session_ = nullptr;
  bool connected_ = false, draining_ = false, snapshot_ = true, drain_asked_ = false;
  uint64_t sequence_ = 0, view_version_ = 0;
  HeldSum held_;                             // of the events since the last snapshot, that included
  bool idle_ = false;  // nothing runs, waits or changed at the last heartbeat; a gateway's rank never is: it has to hear of the dead
  bool was_lost_ = false;
  bool over_ = false;                        // this incarnation is: the coordinator said so, or this process stood still
  kj::TimePoint last_turn_;                  // when this session last did something: a stopped process does not
  WorkerId announced_;                       // the number that this worker's transport has
  std::vector<kj::Own<kj::PromiseFulfiller<void>>> draining_known_;
  kj::Promise<void> loop_ = nullptr;
};

}  // namespace baton
