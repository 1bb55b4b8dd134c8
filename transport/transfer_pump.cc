#include "transport/transfer_pump.h"

#include <array>
#include <utility>

namespace baton {
namespace {

constexpr size_t kMaxCommands = 1 << 16;  // far above layers × transfers; a full box makes the caller wait its turn
constexpr Duration kIdle = std::chrono::milliseconds(20);

Status Stopped() { return CancelledError("the transport was stopped"); }

}  // namespace

TransferPump::TransferPump(std::unique_ptr<Transport> transport, const Clock& clock) : TransferPump(std::move(transport), clock, NoThread()) {
  thread_ = std::thread([this] { Loop(); });
}

TransferPump::TransferPump(std::unique_ptr<Transport> transport, const Clock& clock, NoThread)
    : transport_(std::move(transport)),
      clock_(clock),
      kind_(transport_->name()),
      address_(transport_->address()),
      commands_(kMaxCommands, [this] { Wake(); }) {}

TransferPump::~TransferPump() { Stop(); }

void TransferPump::Stop() {
  if (transport_ == nullptr) return;
  std::unique_ptr<Transport> transport;
  stop_ = true;
  transport_->Wake();
  if (thread_.joinable()) thread_.join();
  else Turn();
  commands_.Close();
  {
    std::lock_guard lock(wake_mutex_);  // somebody may be about to wake it
    std::swap(transport, transport_);
  }
  transport.reset();  // no landing is written and no segment read from here on
  for (auto& command : commands_.Drain()) command(true);
  for (auto& [id, receive] : std::exchange(receives_, {})) receive.done(Stopped());
  for (auto& [id, send] : std::exchange(sends_, {})) {
    if (send.done) send.done(Stopped());
  }
}

void TransferPump::Wake() {
  std::lock_guard lock(wake_mutex_);
  if (transport_ != nullptr) transport_->Wake();
}

void TransferPump::Do(Command command) {
  while (!commands_.Push(std::move(command))) {
    if (commands_.closed()) return command(true);
    std::this_thread::yield();
  }
}

void TransferPump::Loop() {
  for (bool last = false; !last;) {
    last = stop_;  // read first: what was asked for before the end is still done
    const size_t ended = Turn();
    if (!last && ended == 0 && commands_.size() == 0) transport_->Wait(kIdle);
  }
}

size_t TransferPump::Turn() {
  std::array<Completion, 256> completions;
  for (auto& command : commands_.Drain()) command(false);
  const size_t n = transport_->Poll(completions);
  for (size_t i = 0; i < n; ++i) OnCompletion(completions[i]);
  return n;
}

bool TransferPump::Reach(const PeerEnd& peer, Status* status) {
  auto connected = transport_->Connect(peer.id, peer.address);
  if (!connected.ok()) *status = connected.status();
  return connected.ok();
}

void TransferPump::Expect(TransferId id, PeerEnd from, std::vector<Landing> landings, Instant deadline, Done done, std::span<Digest128> digests) {
  Do([this, id, from = std::move(from), landings = std::move(landings), deadline, done = std::move(done), digests](bool stopped) mutable {
    if (stopped) return done(Stopped());
    Status status;
    const auto digest_run = static_cast<uint32_t>(digests.empty() ? 0 : CeilDiv(landings.size(), digests.size()));
    if (!Reach(from, &status)) return done(status);
    status = transport_->Expect(id, from.id, landings, deadline, digest_run);
    if (!status.ok()) return done(status);
    receives_[id] = {std::move(done), digest_run, digests};
  });
}

void TransferPump::Push(TransferId id, PeerEnd to, std::vector<Segment> segments) {
  Do([this, id, to = std::move(to), segments = std::move(segments)](bool stopped) {
    if (stopped) return;
    Send& send = sends_[id];
    if (!send.status.ok()) return;
    if (Reach(to, &send.status)) send.status = transport_->Push(id, to.id, segments);
    if (!send.status.ok()) {
      transport_->Cancel(id);  // the receiver need not wait for its deadline; former pushes' segments are the transport's until it says so
      return;
    }
    send.peer = to.id;
    if (send.open_segments == 0) send.begin = clock_.Now();
    send.open_segments += segments.size();
    for (const Segment& segment : segments) send.open_bytes += segment.bytes;
  });
}

void TransferPump::CloseSend(TransferId id, Done done) {
  Do([this, id, done = std::move(done)](bool stopped) mutable {
    if (stopped) return done(Stopped());
    Send& send = sends_[id];
    send.closed = true;
    send.done = std::move(done);
    EndSendIfOver(id);
  });
}

void TransferPump::Cancel(TransferId id) {
  Do([this, id](bool stopped) {
    if (stopped) return;
    transport_->Cancel(id);
    const auto send = sends_.find(id);
    if (send == sends_.end()) return;
    if (send->second.open_segments > 0) return;  // the transport still owns bytes; its completion ends the transfer
    if (send->second.status.ok()) send->second.status = CancelledError("the transfer was cancelled");
    EndSendIfOver(id);
  });
}

void TransferPump::Disconnect(WorkerId peer) {
  Do([this, peer](bool stopped) {
    if (stopped) return;
    transport_->Disconnect(peer);
    std::lock_guard lock(mutex_);
    path_bytes_per_s_.erase(peer);
  });
}

void TransferPump::OnCompletion(const Completion& c) {
  const auto send = sends_.find(c.transfer);
  switch (c.kind) {
    case CompletionKind::kSegmentLanded: return KeepDigest(c);
    case CompletionKind::kTransferLanded: return EndReceive(c.transfer, OkStatus());
    case CompletionKind::kSent:
      if (send == sends_.end()) return;
      if (send->second.open_segments > 0 && --send->second.open_segments == 0) CountSent(send->second);
      return EndSendIfOver(c.transfer);
    case CompletionKind::kFailed:
      if (c.receiving) return EndReceive(c.transfer, c.status);
      if (send == sends_.end()) return;
      if (send->second.status.ok()) send->second.status = c.status;
      send->second.open_segments = 0;
      return EndSendIfOver(c.transfer);
  }
}

void TransferPump::KeepDigest(const Completion& c) {
  const auto found = receives_.find(c.transfer);
  if (c.digested && found != receives_.end()) found->second.digests[c.index / found->second.digest_run] = c.digest;
}

void TransferPump::CountSent(Send& send) {
  const double seconds = ToSeconds(clock_.Now() - send.begin), bytes = static_cast<double>(std::exchange(send.open_bytes, 0));
  if (seconds <= 0) return;
  const double rate = bytes / seconds, before = sent_bytes_per_s();
  sent_bytes_per_s_.store(before == 0 ? rate : 0.8 * before + 0.2 * rate, std::memory_order_relaxed);
  std::lock_guard lock(mutex_);
  double& path = path_bytes_per_s_[send.peer];
  path = path == 0 ? rate : 0.8 * path + 0.2 * rate;
}

std::vector<std::pair<WorkerId, double>> TransferPump::PathSpeeds() const {
  std::lock_guard lock(mutex_);
  return {path_bytes_per_s_.begin(), path_bytes_per_s_.end()};
}

void TransferPump::EndReceive(TransferId id, const Status& status) {
  const auto found = receives_.find(id);
  if (found == receives_.end()) return;
  const Done done = std::move(found->second.done);
  receives_.erase(found);
  done(status);
}

void TransferPump::EndSendIfOver(TransferId id) {
  const auto found = sends_.find(id);
  Send& send = found->second;
  // A failed send still waits for CloseSend: only then is it known that no push of it is under way on another thread.
  if (!send.closed || send.open_segments > 0) return;
  const Done done = std::move(send.done);
  const Status status = send.status;
  sends_.erase(found);
  done(status);
}

}  // namespace baton
