#include "coordinator/membership.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>

namespace baton {
namespace {

constexpr uint32_t kMostIds = 1u << 31;  // what the prefix index can hold
constexpr std::array<std::string_view, 5> kRoles = {"coordinator", "gateway", "store", "prefill", "decode"};

bool Computes(const MemberInfo& info) { return info.Has("prefill") || info.Has("decode"); }

/// A rate from the wire: what is no positive number counts as not measured.
double CleanRate(double rate) { return std::isfinite(rate) && rate > 0 ? rate : 0; }

/// What no worker can have; more would only make sums wrap.
constexpr uint64_t kMostQueuedTokens = uint64_t{1} << 40;
constexpr uint32_t kMostStreams = 1u << 20;

/// A cost from the wire: a factor that is no number, or below 0, makes the whole model one that is not known yet.
StepModel CleanModel(const StepModel& model) {
  for (const double factor : {model.base_s, model.token_s, model.pair_s, model.row_s}) {
    if (!std::isfinite(factor) || factor < 0) return {};
  }
  return model;
}

WorkerLoad Clean(WorkerLoad load) {
  load.running = std::min(load.running, kMostStreams);
  load.waiting = std::min(load.waiting, kMostStreams);
  load.queued_prefill_tokens = std::min(load.queued_prefill_tokens, kMostQueuedTokens);
  load.step_model = CleanModel(load.step_model);
  load.prefill_tokens_per_s = CleanRate(load.prefill_tokens_per_s);
  load.decode_step_s = CleanRate(load.decode_step_s);
  load.transfer_bytes_per_s = CleanRate(load.transfer_bytes_per_s);
  load.store_bytes_per_s = CleanRate(load.store_bytes_per_s);
  return load;
}

}  // namespace

void Member::SetRoles() {
  prefill = info.Has("prefill");
  decode = info.Has("decode");
  store = info.Has("store");
}

Membership::Membership(MembershipConfig config, uint64_t first_incarnation, Instant now)
    : config_(config), begin_(now), next_incarnation_(std::max<uint64_t>(1, first_incarnation)) {}

Status Membership::CheckInfo(const MemberInfo& info) const {
  if (info.name.empty()) return InvalidError("a worker must have a name");
  if (info.roles.empty()) return InvalidError("worker '{}' has no role; give it one of coordinator, gateway, store, prefill, decode", info.name);
  for (const std::string& role : info.roles) {
    if (std::find(kRoles.begin(), kRoles.end(), role) == kRoles.end()) {
      return InvalidError("worker '{}' has the unknown role '{}'; roles are coordinator, gateway, store, prefill, decode", info.name, role);
    }
  }
  if (!Computes(info)) return OkStatus();
  if (info.model.empty()) return InvalidError("worker '{}' prefills or decodes but names no model", info.name);
  if (info.model.block_tokens == 0) return InvalidError("worker '{}' names a model with blocks of 0 tokens", info.name);
  if (identity_.empty() || identity_.ToString() == info.model.ToString()) return OkStatus();
  return InvalidError("worker '{}' serves [{}] but the cluster serves [{}]; start it with the cluster's model.path, model.numerics, model.kv_dtype "
                      "and model.block_tokens", info.name, info.model.ToString(), identity_.ToString());
}

Status Membership::MakeRoom() {
  if (members_.size() < config_.max_workers) return OkStatus();
  auto oldest = members_.end();
  for (auto it = members_.begin(); it != members_.end(); ++it) {
    if (!it->second.alive && (oldest == members_.end() || it->second.last_heard < oldest->second.last_heard)) oldest = it;
  }
  if (oldest == members_.end()) return ExhaustedError("the cluster has {} workers, its limit; stop one first", members_.size());
  by_name_.erase(oldest->second.info.name);
  members_.erase(oldest);
  return OkStatus();
}

/// Numbers for one whose name is not known here.
Status Membership::GiveNumbers(MemberInfo& info, Instant now) {
  const bool returns = info.id.value != 0 && info.id.value < kMostIds && members_.count(info.id) == 0;
  if (!returns && Settles(now)) {
    return UnavailableError("the coordinator has just started and lets the members of its former life come back first; try again");
  }
  RETURN_IF_ERROR(MakeRoom());
  if (!returns) {
    while (members_.count(WorkerId(next_id_)) != 0) ++next_id_;
    info.id = WorkerId(next_id_++);
    info.incarnation = Incarnation();
  }
  if (info.incarnation.value == 0 || info.incarnation.value >= next_incarnation_) info.incarnation = Incarnation(next_incarnation_++);
  by_name_[info.name] = info.id;
  return OkStatus();
}

Result<MemberInfo> Membership::Register(MemberInfo info, Instant now) {
  RETURN_IF_ERROR(CheckInfo(info));  // a refused one changes nothing, not even the life of a worker of its name
  const auto known = by_name_.find(info.name);
  Member member;
  if (known == by_name_.end()) {
    RETURN_IF_ERROR(GiveNumbers(info, now));
  } else {
    const Member& former = members_.at(known->second);
    member.stuck = former.stuck;
    member.load.steps = former.load.steps;
    if (former.alive) Bury(members_.at(known->second));
    info.id = known->second;
    info.incarnation = Incarnation(next_incarnation_++);
  }
  info.draining = false;
  member.info = info;
  member.registered_at = member.last_heard = member.last_step = now;
  member.SetRoles();
  if (Computes(info) && identity_.empty()) identity_ = info.model;
  members_[info.id] = std::move(member);
  ++version_;
  return info;
}

Member* Membership::Current(WorkerId id, Incarnation incarnation) {
  const auto it = members_.find(id);
  return it != members_.end() && it->second.alive && it->second.info.incarnation == incarnation ? &it->second : nullptr;
}

Status Membership::Announce(WorkerId id, Incarnation incarnation, std::string transport_kind, std::string transport_address, Instant now) {
  Member* member = Current(id, incarnation);
  if (member == nullptr) return AbortedError("incarnation {} of worker {} is over; register again", incarnation.value, id.value);
  member->info.transport_kind = std::move(transport_kind);
  member->info.transport_address = std::move(transport_address);
  member->ready = !member->stuck;
  member->last_heard = member->ready_at = now;
  ++version_;
  return OkStatus();
}

HeartbeatVerdict Membership::Heartbeat(WorkerId id, Incarnation incarnation, uint64_t sequence, bool snapshot, bool draining,
                                       const WorkerLoad& said, Instant now) {
  Member* member = Current(id, incarnation);
  if (member == nullptr) return {AbortedError("incarnation {} of worker {} is over; register again", incarnation.value, id.value)};
  HeartbeatVerdict verdict;
  if (sequence > member->last_sequence) {  // an old one, late, is no sign of life
    const bool next = sequence == member->last_sequence + 1;
    // Events add to what a snapshot said, and only in an unbroken row. An incarnation may begin with a warm cache (its worker
    // registered again), so the first beat is no exception.
    member->synced = snapshot || (member->synced && next);
    member->last_sequence = sequence;
    member->last_heard = now;
    const WorkerLoad load = Clean(said);
    if (load.steps != member->load.steps || load.running + load.waiting == 0) {
      member->last_step = now;
      if (std::exchange(member->stuck, false)) {
        member->ready = true;
        ++version_;
      }
    }
    member->load = load;
    verdict.action = snapshot || !next ? HeartbeatAction::kReplace : HeartbeatAction::kApply;
    if (draining && !member->info.draining) {
      member->info.draining = true;
      ++version_;
    }
  }
  verdict.resync = !member->synced;
  verdict.drain = member->info.draining;
  return verdict;
}

void Membership::Bury(Member& member) {
  member.alive = member.ready = member.synced = false;
  member.load = {.steps = member.load.steps};
  ++version_;
  for (const auto& [id, other] : members_) {
    if (other.alive && Computes(other.info)) return;
  }
  identity_ = {};
}

bool Membership::Disconnect(WorkerId id, Incarnation incarnation) {
  Member* member = Current(id, incarnation);
  if (member == nullptr) return false;
  Bury(*member);
  return true;
}

std::vector<WorkerId> Membership::Expire(Instant now) {
  std::vector<WorkerId> dead;
  for (auto& [id, member] : members_) {
    if (!member.alive) continue;
    const bool silent = ToSeconds(now - member.last_heard) > config_.dead_after_s;
    const bool stuck = member.ready && config_.stuck_after_s > 0 && ToSeconds(now - member.last_step) > config_.stuck_after_s;
    if (!silent && !stuck) continue;
    member.stuck = member.stuck || !silent;
    Bury(member);
    dead.push_back(id);
  }
  return dead;
}

void Membership::Forgive(Duration gap) {
  for (auto& [id, member] : members_) {
    member.last_heard += gap;
    member.last_step += gap;
  }
}

Status Membership::Drain(WorkerId id) {
  const auto it = members_.find(id);
  if (it == members_.end() || !it->second.alive) return NotFoundError("there is no worker {}; `baton top` lists them", id.value);
  if (!it->second.info.draining) ++version_;
  it->second.info.draining = true;
  return OkStatus();
}

Status Membership::SetRole(WorkerId id, const std::string& role, Instant now) {
  const auto it = members_.find(id);
  if (it == members_.end() || !it->second.alive) return NotFoundError("there is no worker {}; `baton top` lists them", id.value);
  MemberInfo& info = it->second.info;
  std::vector<std::string> roles;
  if (role == "prefill" || role == "decode") roles = {role};
  if (role == "prefill+decode") roles = {"prefill", "decode"};
  if (roles.empty()) return InvalidError("role '{}' cannot be taken; it is one of prefill, decode, prefill+decode", role);
  if (!Computes(info)) return InvalidError("worker {} has no engine, its roles cannot change", id.value);
  const auto decodes = [](const Member& m) { return m.ready && m.decode && !m.info.draining; };
  const bool others = std::any_of(members_.begin(), members_.end(), [&](const auto& m) { return m.first != id && decodes(m.second); });
  if (role == "prefill" && it->second.decode && !others) return InvalidError("worker {} is the last that decodes; give another that role first", id.value);
  const double since_s = it->second.switched_at == Instant::min() ? config_.role_dwell_s : ToSeconds(now - it->second.switched_at);
  if (since_s < config_.role_dwell_s) {
    return ExhaustedError("worker {} switched its role {:.1f} s ago; a role is kept for {} s, so that two who disagree do not make it flap", id.value, since_s,
                          config_.role_dwell_s);
  }
  for (const std::string& kept : info.roles) {  // a rank may also be the gateway or the store
    if (kept != "prefill" && kept != "decode") roles.push_back(kept);
  }
  info.roles = std::move(roles);
  it->second.switched_at = now;
  it->second.SetRoles();
  ++version_;
  return OkStatus();
}

Member* Membership::Edit(WorkerId id) {
  const auto it = members_.find(id);
  return it == members_.end() ? nullptr : &it->second;
}

const Member* Membership::Find(WorkerId id) const {
  const auto it = members_.find(id);
  return it == members_.end() ? nullptr : &it->second;
}

std::vector<MemberInfo> Membership::Ready() const {
  std::vector<MemberInfo> ready;
  for (const auto& [id, member] : members_) {
    if (member.ready) ready.push_back(member.info);
  }
  return ready;
}

size_t Membership::ready_count() const {
  return static_cast<size_t>(std::count_if(members_.begin(), members_.end(), [](const auto& member) { return member.second.ready; }));
}

}  // namespace baton
