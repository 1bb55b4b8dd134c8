#include "transport/endpoint.h"

#include <algorithm>

#include "base/hash.h"
#include "base/log.h"

namespace baton {
namespace {

/// Of frames that wait for one peer. An honest one's grants and acks stay far below: its landings are bounded.
constexpr size_t kCongestedBytes = 64_MiB;

TransferLimits LimitsOf(const TransportConfig& config, size_t piece_bytes) {
  return {.max_transfers = config.max_transfers, .max_landings = config.max_landings, .piece_bytes = piece_bytes, .hold = config.hold};
}

}  // namespace

Endpoint::Endpoint(const TransportConfig& config, size_t piece_bytes, const Clock& clock)
    : config_(config),
      clock_(clock),
      receiving_(LimitsOf(config, piece_bytes), memory_, *this, completions_),
      sending_(LimitsOf(config, piece_bytes), *this, *this, completions_) {}

Endpoint::~Endpoint() {
  if (wire_ == nullptr) return;
  receiving_.FlushAcks();
  FlushDirty();
  if (receiving_.active() + sending_.active() > 0) LOG_DEBUG("transport closed in the middle of transfers:\n{}\n{}", receiving_.Describe(), sending_.Describe());
}

bool Endpoint::MakeRoom() {
  if (peers_.size() < config_.max_peers) return true;
  return std::erase_if(peers_, [](const auto& p) { return !p.second.up && (p.second.dead || !p.second.address().empty()); }) > 0;
}

Status Endpoint::Reach(WorkerId id) {
  if (id.value == 0) return InvalidError("worker 0 is nobody");
  auto it = peers_.find(id);
  if (it == peers_.end()) {
    if (!MakeRoom()) return ExhaustedError("worker {}: {} peers are known already; raise the transport's max_peers", id.value, peers_.size());
    it = peers_.try_emplace(id).first;
  }
  Peer& peer = it->second;
  if (peer.dead) return UnavailableError("worker {} is not connected: it was declared dead", id.value);
  if (!peer.up && !peer.address().empty()) return wire_->Connect(id, peer.address());
  return OkStatus();
}

Result<WorkerId> Endpoint::Connect(WorkerId id, const std::string& address) {
  if (const auto it = peers_.find(id); it != peers_.end()) {
    Peer& peer = it->second;
    peer.dead = false;
    if (!peer.address().empty() && address != peer.given && address != peer.said) {
      wire_->Disconnect(id);
      FailPeer(id, UnavailableError("worker {} was restarted: it is now at {}", id.value, address));
      peer.up = false;
      peer.given.clear();
      peer.said.clear();
    }
  }
  RETURN_IF_ERROR(Reach(id));
  RETURN_IF_ERROR(wire_->Connect(id, address));
  peers_.at(id).given = address;
  return id;
}

void Endpoint::Disconnect(WorkerId id) {
  const auto it = peers_.find(id);
  if (it == peers_.end()) return;
  it->second.dead = true;
  it->second.up = false;
  wire_->Disconnect(id);
  FailPeer(id, UnavailableError("worker {} was declared dead", id.value));
}

void Endpoint::FailPeer(WorkerId id, const Status& status) {
  receiving_.FailPeer(id, status);
  sending_.FailPeer(id, status);
  if (const auto it = peers_.find(id); it != peers_.end()) it->second.control.clear();
}

Status Endpoint::Register(const ArenaMemory& arena) {
  RETURN_IF_ERROR(memory_.Add(arena.bytes));
  return wire_->Register(arena);
}

Status Endpoint::Expect(TransferId id, WorkerId from, std::span<const Landing> landings, Instant deadline, uint32_t digest_run) {
  RETURN_IF_ERROR(Reach(from));
  return receiving_.Expect(id, from, landings, deadline, clock_.Now(), digest_run);
}

Status Endpoint::Push(TransferId id, WorkerId to, std::span<const Segment> segments) {
  RETURN_IF_ERROR(Reach(to));
  RETURN_IF_ERROR(sending_.Push(id, to, segments, clock_.Now()));
  MarkDirty(to, peers_.at(to));
  return OkStatus();
}

void Endpoint::Cancel(TransferId id) {
  const bool receiver = receiving_.Knows(id);
  receiving_.Fail(id, CancelledError("transfer {} was cancelled by its receiver", id.value));
  if (!receiver || sending_.Has(id)) sending_.Cancel(id);
}

size_t Endpoint::Poll(std::span<Completion> out) {
  wire_->Progress();
  const Instant now = clock_.Now();
  receiving_.Expire(now);
  sending_.Expire(now);
  receiving_.FlushAcks();
  FlushDirty();
  const size_t n = std::min(out.size(), completions_.size());
  std::move(completions_.begin(), completions_.begin() + static_cast<ptrdiff_t>(n), out.begin());
  completions_.erase(completions_.begin(), completions_.begin() + static_cast<ptrdiff_t>(n));
  return n;
}

void Endpoint::Wait(Duration timeout) {
  FlushDirty();
  if (!completions_.empty()) return;
  const Instant deadline = std::min(receiving_.next_deadline(), sending_.next_deadline());
  if (deadline != Instant::max()) timeout = std::clamp(deadline - clock_.Now(), Duration::zero(), timeout);
  wire_->Wait(timeout);
}

TransportStats Endpoint::stats() const {
  TransportStats s;
  s.sent_bytes = sending_.sent_bytes();
  s.landed_bytes = receiving_.landed_bytes();
  s.drained_bytes = drained_bytes_;
  s.refused_peers = wire_->refused_peers();
  s.receiving = receiving_.active();
  s.sending = sending_.active();
  s.peers = static_cast<size_t>(std::count_if(peers_.begin(), peers_.end(), [](const auto& p) { return p.second.up; }));
  return s;
}

Status Endpoint::Admit(WorkerId id) {
  if (id.value == 0) return InvalidError("a peer says that it is worker 0");
  if (!peers_.contains(id) && !MakeRoom()) return ExhaustedError("too many peers: {}", peers_.size());
  return OkStatus();
}

void Endpoint::OnPeerUp(WorkerId id, const std::string& address) {
  Peer& peer = peers_[id];
  if (peer.said != address && !peer.said.empty()) peer.given.clear();  // it was restarted: the way to its predecessor is no way to it
  peer.said = address;
  peer.up = true;
  peer.dead = false;
  peer.control.clear();
  receiving_.GrantAgain(id, clock_.Now());
  sending_.AskAgain(id);
  MarkDirty(id, peer);
}

void Endpoint::OnPeerDown(WorkerId id, const Status& status) {
  if (const auto it = peers_.find(id); it != peers_.end()) it->second.up = false;
  FailPeer(id, status);
}

void Endpoint::OnPathLost(WorkerId id, uint32_t path) {
  sending_.PathLost(id, path);
  receiving_.GrantAgain(id, clock_.Now());  // a grant or an end may have been lost with it
  sending_.AskAgain(id);
  MarkDirty(id, peers_[id]);
}

Status Endpoint::OnFrame(WorkerId peer, const FrameHeader& h, Bytes body) {
  switch (h.type) {
    case FrameType::kGrant:
      sending_.OnGrant(peer, h, body, clock_.Now());
      MarkDirty(peer, peers_[peer]);
      return OkStatus();
    case FrameType::kAck:
      return sending_.OnAck(peer, h, body);
    case FrameType::kAsk:
      receiving_.OnAsk(peer, TransferId(h.transfer), clock_.Now());
      return OkStatus();
    case FrameType::kEnd:
      if ((h.flags & kFromReceiver) != 0) {
        sending_.OnEnd(peer, TransferId(h.transfer), ParseEnd(h, body));
      } else {
        receiving_.OnEnd(peer, TransferId(h.transfer), ParseEnd(h, body));
      }
      return OkStatus();
    default:
      return InvalidError("worker {} sent a frame of type {}, which has no place here", peer.value, static_cast<int>(h.type));
  }
}

std::byte* Endpoint::Locate(WorkerId peer, const FrameHeader& h, size_t bytes) { return receiving_.Locate(peer, h, bytes); }

void Endpoint::Landed(WorkerId peer, const FrameHeader& h) {
  if ((h.flags & kChecksummed) != 0) {
    const size_t bytes = receiving_.SizeOf(h);
    const std::byte* place = receiving_.Locate(peer, h, bytes);
    if (place != nullptr && Xxh3_64({place, bytes}) != h.checksum) {
      receiving_.Fail(TransferId(h.transfer), DataLossError("transfer {}: piece {} of segment {} from worker {} does not match its checksum", h.transfer,
                                                            h.piece, h.index, peer.value));
      return;
    }
  }
  receiving_.Landed(peer, h);
}

void Endpoint::Drained(WorkerId peer, const FrameHeader& h, size_t bytes) {
  drained_bytes_ += bytes;
  receiving_.Drained(peer, h);
}

std::string Endpoint::TakeControl(WorkerId id) {
  const auto it = peers_.find(id);
  return it == peers_.end() ? std::string() : std::exchange(it->second.control, {});
}

bool Endpoint::HasOutput(WorkerId id) const {
  const auto it = peers_.find(id);
  return it != peers_.end() && (!it->second.control.empty() || sending_.HasNext(id));
}

std::optional<OutPiece> Endpoint::NextPiece(WorkerId peer, uint32_t path) {
  auto piece = sending_.Next(peer, path);
  if (piece && config_.checksum) {
    piece->header.flags |= kChecksummed;
    piece->header.checksum = Xxh3_64({piece->data, piece->header.body_bytes});
  }
  return piece;
}

bool Endpoint::Congested(WorkerId id) const {
  const auto it = peers_.find(id);
  return it != peers_.end() && it->second.control.size() > kCongestedBytes;
}

void Endpoint::Send(WorkerId id, std::string frame) {
  const auto it = peers_.find(id);
  if (it == peers_.end() || !it->second.up) return;
  it->second.control += frame;
  MarkDirty(id, it->second);
}

void Endpoint::MarkDirty(WorkerId id, Peer& peer) {
  if (!std::exchange(peer.dirty, true)) dirty_.push_back(id);
}

void Endpoint::FlushDirty() {
  const std::vector<WorkerId> dirty = std::exchange(dirty_, {});
  for (const WorkerId id : dirty) {
    const auto it = peers_.find(id);
    if (it == peers_.end()) continue;
    it->second.dirty = false;
    if (it->second.up) wire_->Flush(id);
  }
}

}  // namespace baton
