// Who is in the cluster. Pure bookkeeping: time is an argument, nothing is sent. A worker registers (and gets its number and
// incarnation), announces that it is ready, sends numbered heartbeats, and is dead when it leaves or falls silent. A worker that
// comes back under its name keeps its number and gets a higher incarnation; whatever the older one still says is refused, so a
// stopped process that wakes up is not believed. A worker whose heartbeats come but whose engine has work and makes no step
// hangs: it counts as dead until it makes one. After a restart of the coordinator workers come back with the numbers that its
// former life gave them.
//
// Thread: one.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/status.h"
#include "coordinator/router.h"
#include "protocol/member.h"

namespace baton {

struct MembershipConfig {
  double dead_after_s = 2;      // silence that counts as death
  double stuck_after_s = 30;    // work without a step of the engine that counts as a hang; 0: never
  double settle_s = 0;          // after the start only former members join: their numbers must not go to others
  double role_dwell_s = 5;      // a worker's role is switched no sooner than this after the last time
  uint32_t max_workers = 1024;  // names remembered, the dead ones included
};

struct Member {
  MemberInfo info;      // with id, incarnation and draining
  bool alive = true;
  bool ready = false;   // announced: may be routed to
  bool synced = false;  // its blocks are known: no heartbeat was missed since the last snapshot
  bool stuck = false;   // alive, but had work and made no step: not ready until it makes one
  bool prefill = false, decode = false, store = false;  // info.roles, for the router
  uint64_t last_sequence = 0;
  Instant registered_at, ready_at, last_heard, last_step;
  Instant switched_at = Instant::min();  // its role
  WorkerLoad load;
  std::vector<PathSpeed> paths;  // of its hand-offs, those that differ from load.transfer_bytes_per_s
  HeldSum held;                  // what the index has of it

  void SetRoles();  // from info.roles
};

/// What to do with a heartbeat's events.
enum class HeartbeatAction : uint8_t {
  kApply,    // add and remove them
  kReplace,  // what it adds is all that is known of the worker: a snapshot, or the first after a gap
  kIgnore,   // seen before
};
struct HeartbeatVerdict {
  Status status;  // kAborted: this incarnation is over, register again
  HeartbeatAction action = HeartbeatAction::kIgnore;
  bool resync = false;  // send a snapshot next
  bool drain = false;   // an administrator asks the worker to leave
};

class Membership {
 public:
  /// `first_incarnation`: above every number a former life of this coordinator gave, for example milliseconds since 1970.
  Membership(MembershipConfig config, uint64_t first_incarnation, Instant now);

  /// `info.id` and `info.incarnation` are those of a former life of this coordinator, or 0. They are kept where nobody here is
  /// known by that name or number; else fresh ones are given. Errors: kInvalid (no name, no role or an unknown one, a model
  /// worker without a model, a model other than the cluster's: names both), kExhausted (max_workers), kUnavailable (settle_s).
  Result<MemberInfo> Register(MemberInfo info, Instant now);
  /// Ready; its transport listens there. Errors: kAborted for a stale incarnation.
  Status Announce(WorkerId id, Incarnation incarnation, std::string transport_kind, std::string transport_address, Instant now);
  HeartbeatVerdict Heartbeat(WorkerId id, Incarnation incarnation, uint64_t sequence, bool snapshot, bool draining,
                             const WorkerLoad& said, Instant now);
  /// For what belongs to a member but is learned by others; null as Find's.
  Member* Edit(WorkerId id);
  /// The connection broke or the session was dropped. False (and nothing changes) for a stale incarnation.
  bool Disconnect(WorkerId id, Incarnation incarnation);
  /// Declares the silent dead and the stuck not ready; gives them.
  std::vector<WorkerId> Expire(Instant now);
  /// Nobody could be heard for `gap` before `now`: the coordinator itself stood still. That time is no silence.
  void Forgive(Duration gap);
  /// The worker gets nothing new. Errors: kNotFound.
  Status Drain(WorkerId id);
  /// Takes the role from the next decision on; the worker has all services of an engine, what runs there goes on. Errors:
  /// kNotFound, kInvalid (unknown role, no engine, the last one that decodes), kExhausted (switched less than role_dwell_s ago).
  Status SetRole(WorkerId id, const std::string& role, Instant now);

  /// Null for an unknown id; dead ones are found.
  const Member* Find(WorkerId id) const;
  const std::map<WorkerId, Member>& members() const { return members_; }
  /// Alive and announced.
  std::vector<MemberInfo> Ready() const;
  size_t ready_count() const;
  /// Grows with every change that others must learn.
  uint64_t version() const { return version_; }
  /// Within settle_s of the start: who is not here may be on its way back, so nobody is to be told that it is gone.
  bool Settles(Instant now) const { return ToSeconds(now - begin_) < config_.settle_s; }
  /// What all model workers share; empty before the first and after the last.
  const ModelIdentity& identity() const { return identity_; }

 private:
  Member* Current(WorkerId id, Incarnation incarnation);
  Status CheckInfo(const MemberInfo& info) const;
  Status MakeRoom();
  Status GiveNumbers(MemberInfo& info, Instant now);
  void Bury(Member& member);

  MembershipConfig config_;
  const Instant begin_;
  uint64_t next_incarnation_;
  uint32_t next_id_ = 1;
  uint64_t version_ = 1;
  std::map<WorkerId, Member> members_;
  std::map<std::string, WorkerId> by_name_;
  ModelIdentity identity_;
};

}  // namespace baton
