// Who is in the cluster. Pure bookkeeping: time is an argument, nothing is sent. A worker registers (and gets its number and
// incarnation), announces that it is ready, sends numbered heartbeats, and is dead when it leaves or falls silent. A worker that
// comes back under its name keeps its number and gets a higher incarnation; whatever the older one still says is refused, so a
// stopped process that wakes up is not believed.
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
  uint32_t max_workers = 1024;  // names remembered, the dead ones included
};

struct Member {
  MemberInfo info;      // with id, incarnation and draining
  bool alive = true;
  bool ready = false;   // announced: may be routed to
  bool synced = false;  // its blocks are known: no heartbeat was missed since the last snapshot
  bool prefill = false, decode = false, store = false;  // info.roles, for the router
  uint64_t last_sequence = 0;
  Instant registered_at, last_heard;
  WorkerLoad load;

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
  Membership(MembershipConfig config, uint64_t first_incarnation);

  /// `info` without id and incarnation. Errors: kInvalid (no name, no role or an unknown one, a model worker without a model, a
  /// model other than the cluster's: names both), kExhausted (max_workers).
  Result<MemberInfo> Register(MemberInfo info, Instant now);
  /// Ready; its transport listens there. Errors: kAborted for a stale incarnation.
  Status Announce(WorkerId id, Incarnation incarnation, std::string transport_kind, std::string transport_address, Instant now);
  HeartbeatVerdict Heartbeat(WorkerId id, Incarnation incarnation, uint64_t sequence, bool snapshot, bool draining,
                             const WorkerLoad& load, Instant now);
  /// The connection broke or the session was dropped. False (and nothing changes) for a stale incarnation.
  bool Disconnect(WorkerId id, Incarnation incarnation);
  /// Declares the silent dead; gives them.
  std::vector<WorkerId> Expire(Instant now);
  /// The worker gets nothing new. Errors: kNotFound.
  Status Drain(WorkerId id);
  /// Takes the role from the next decision on; the worker has all services of an engine. Errors: kNotFound, kInvalid (unknown
  /// role, no engine, the last one that decodes).
  Status SetRole(WorkerId id, const std::string& role);

  /// Null for an unknown id; dead ones are found.
  const Member* Find(WorkerId id) const;
  const std::map<WorkerId, Member>& members() const { return members_; }
  /// Alive and announced.
  std::vector<MemberInfo> Ready() const;
  size_t ready_count() const;
  /// Grows with every change that others must learn.
  uint64_t version() const { return version_; }
  /// What all model workers share; empty before the first and after the last.
  const ModelIdentity& identity() const { return identity_; }

 private:
  Member* Current(WorkerId id, Incarnation incarnation);
  Status CheckInfo(const MemberInfo& info) const;
  Status MakeRoom();
  void Bury(Member& member);

  MembershipConfig config_;
  uint64_t next_incarnation_;
  uint32_t next_id_ = 1;
  uint64_t version_ = 1;
  std::map<WorkerId, Member> members_;
  std::map<std::string, WorkerId> by_name_;
  ModelIdentity identity_;
};

}  // namespace baton
