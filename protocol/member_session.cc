#include "protocol/member_session.h"

#include "base/log.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

constexpr kj::Duration kRetry = 100 * kj::MILLISECONDS;
constexpr Duration kJoinAgain = std::chrono::seconds(10);
constexpr int kIdleFactor = 2;  // an idle worker has less to say; still thrice before it would count as dead
constexpr kj::Duration kRegisterTimeout = 5 * kj::SECONDS;

}  // namespace

MemberSession::MemberSession(kj::Timer& timer, FindCoordinator find, MemberInfo self, MembershipView& view, Duration heartbeat, Hooks hooks)
    : timer_(timer), find_(std::move(find)), self_(std::move(self)), view_(view), heartbeat_(heartbeat.count() * kj::NANOSECONDS), hooks_(std::move(hooks)),
      last_turn_(timer.now()) {}

void MemberSession::CountHeld(const std::vector<HeldChange>& changes) {
  if (snapshot_) held_ = {};
  for (const HeldChange& change : changes) held_.Count(change);
}

void MemberSession::AskToLeave() {
  if (std::exchange(drain_asked_, true)) return;
  if (hooks_.on_drain) hooks_.on_drain();
}

kj::Promise<Status> MemberSession::Register() {
  return CatchAsStatus(find_().then([this](Result<wire::Coordinator::Client> coordinator) -> kj::Promise<Status> {
    if (!coordinator.ok()) return coordinator.status();
    coordinator_ = *coordinator;
    auto request = coordinator->registerRequest();
    WriteInfo(self_, request.initInfo());
    // Who is over, or was stopped for a while and so may be dead to its peers, has no former incarnation. It keeps its number
    // where nobody else has it: its transport is bound to that.
    request.setFormerId(self_.id.value);
    if (!over_ && !(was_lost_ && Stalled())) request.setFormerIncarnation(self_.incarnation.value);
    auto registered = timer_.timeoutAfter(kRegisterTimeout, kj::Promise<capnp::Response<wire::Coordinator::RegisterResults>>(request.send()));
    return registered.then([this](capnp::Response<wire::Coordinator::RegisterResults> answer) {
      const Status status = ReadStatus(answer.getStatus());
      if (!status.ok()) return status;
      self_.id = WorkerId(answer.getId());
      self_.incarnation = Incarnation(answer.getIncarnation());
      session_ = answer.getSession();
      sequence_ = 0;
      view_version_ = 0;
      snapshot_ = true;
      connected_ = true;
      over_ = false;
      last_turn_ = timer_.now();
      return OkStatus();
    });
  }));
}

kj::Promise<void> MemberSession::JoinUntil(kj::TimePoint deadline, kj::Own<kj::PromiseFulfiller<Status>> done) {
  return Register().then([this, deadline, done = kj::mv(done)](Status status) mutable -> kj::Promise<void> {
    const bool final = status.ok() || status.code() == StatusCode::kInvalid;
    if (final || timer_.now() >= deadline) {
      done->fulfill(status.WithContext("joining the cluster"));
      return kj::READY_NOW;
    }
    return timer_.afterDelay(kRetry).then([this, deadline, done = kj::mv(done)]() mutable { return JoinUntil(deadline, kj::mv(done)); });
  });
}

kj::Promise<Status> MemberSession::Join(Duration timeout) {
  auto pair = kj::newPromiseAndFulfiller<Status>();
  loop_ = JoinUntil(timer_.now() + timeout.count() * kj::NANOSECONDS, kj::mv(pair.fulfiller)).eagerlyEvaluate(nullptr);
  return kj::mv(pair.promise);
}

kj::Promise<Status> MemberSession::SendAnnounce() {
  auto request = session_.announceRequest();
  request.setTransportKind(self_.transport_kind);
  request.setTransportAddress(self_.transport_address);
  return CatchAsStatus(request.send().then([](capnp::Response<wire::WorkerSession::AnnounceResults> r) { return ReadStatus(r.getStatus()); }));
}

kj::Promise<Status> MemberSession::Announce(std::string transport_kind, std::string transport_address) {
  self_.transport_kind = std::move(transport_kind);
  self_.transport_address = std::move(transport_address);
  announced_ = self_.id;
  auto sent = SendAnnounce().then([this](Status status) -> kj::Promise<Status> {
    if (status.code() != StatusCode::kAborted && status.code() != StatusCode::kUnavailable) return status;
    // Getting ready took longer than silence may last, or the connection broke meanwhile: dead by now to the coordinator, but not here.
    return Join(kJoinAgain).then([this](Status again) -> kj::Promise<Status> {
      if (!again.ok()) return again;
      return SendAnnounce();
    });
  });
  return sent.then([this](Status status) {
    if (status.ok()) loop_ = HeartbeatLoop().eagerlyEvaluate([](kj::Exception&& e) { LOG_ERROR("heartbeats stopped: {}", e.getDescription().cStr()); });
    return status;
  });
}

kj::Promise<void> MemberSession::HeartbeatLoop() {
  return Heartbeat().then([this](Status status) -> kj::Promise<void> {
    if (status.ok()) return timer_.afterDelay(heartbeat_ * (idle_ ? kIdleFactor : 1)).then([this]() { return HeartbeatLoop(); });
    for (auto& waiter : std::exchange(draining_known_, {})) waiter->fulfill();
    LOG_WARN("{}: {}; registering again", self_.name, status.ToString());
    connected_ = false;
    if (hooks_.on_silent && timer_.now() - last_turn_ >= Silence()) hooks_.on_silent();
    over_ = status.code() == StatusCode::kAborted;
    was_lost_ = was_lost_ || !over_;
    return Rejoin().then([this]() { return HeartbeatLoop(); });
  });
}

/// Says, while an answer is waited for, that this process still runs: only a process that was stopped misses its turns.
kj::Promise<Status> MemberSession::WatchTurns() {
  over_ = over_ || Stalled();
  last_turn_ = timer_.now();
  return timer_.afterDelay(kRetry).then([this]() { return WatchTurns(); });
}

kj::Promise<void> MemberSession::Rejoin() {
  return Register()
      .exclusiveJoin(WatchTurns())
      .then([this](Status status) -> kj::Promise<Status> {
        if (!status.ok()) return status;
        if (self_.id != announced_) {
          LOG_ERROR("{}: number {} went to another worker while the coordinator was gone; leaving, start this worker again", self_.name, announced_.value);
          AskToLeave();
          return OkStatus();
        }
        return SendAnnounce();
      })
      .then([this](Status status) -> kj::Promise<void> {
        if (status.ok()) {
          LOG_INFO("{} is back in the cluster as worker {}, incarnation {}", self_.name, self_.id.value, self_.incarnation.value);
          return kj::READY_NOW;
        }
        connected_ = false;
        return timer_.afterDelay(kRetry).then([this]() { return Rejoin(); });
      });
}

kj::Promise<Status> MemberSession::Heartbeat() {
  auto request = session_.heartbeatRequest();
  request.setSequence(++sequence_);
  request.setMembershipVersion(view_version_);
  request.setDraining(draining_);
  request.setSnapshot(snapshot_);
  if (hooks_.load) hooks_.load(request.initLoad());
  auto load = request.getLoad();
  idle_ = !self_.Has("gateway") && load.getRunning() == 0 && load.getWaiting() == 0 && !draining_ && !snapshot_;
  if (hooks_.changes) {
    const std::vector<HeldChange> changes = hooks_.changes(snapshot_);
    CountHeld(changes);
    idle_ = idle_ && changes.empty();
    auto events = request.initEvents(static_cast<uint32_t>(changes.size()));
    for (uint32_t i = 0; i < changes.size(); ++i) {
      events[i].setAdded(changes[i].added);
      events[i].setKey(ToData(changes[i].key));
    }
  }
  request.setHeldBlocks(held_.blocks);
  request.setHeldSum(held_.sum);
  snapshot_ = false;
  last_turn_ = timer_.now();
  const bool said_draining = draining_;
  auto answer = timer_.timeoutAfter(Silence(), request.send()).then([this, said_draining](capnp::Response<wire::WorkerSession::HeartbeatResults> r) {
    last_turn_ = timer_.now();
    const Status status = ReadStatus(r.getStatus());
    if (!status.ok()) return status;
    snapshot_ = r.getResync();
    if (r.getMembershipVersion() != view_version_) {
      std::vector<MemberInfo> members;
      for (const auto member : r.getMembers()) {
        auto read = ReadMember(member);
        if (read.ok()) members.push_back(std::move(*read));
      }
      view_version_ = r.getMembershipVersion();
      view_.Update(std::move(members));
    }
    if (r.getDrain() && !draining_) AskToLeave();
    if (said_draining) {
      for (auto& waiter : std::exchange(draining_known_, {})) waiter->fulfill();
    }
    return OkStatus();
  });
  return CatchAsStatus(kj::mv(answer));
}

kj::Promise<void> MemberSession::DrainingKnown() {
  if (!connected_) return kj::READY_NOW;
  auto pair = kj::newPromiseAndFulfiller<void>();
  draining_known_.push_back(kj::mv(pair.fulfiller));
  return kj::mv(pair.promise);
}

}  // namespace baton
