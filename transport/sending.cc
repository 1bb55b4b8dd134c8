#include "transport/sending.h"

#include <algorithm>
#include <map>

namespace baton {
namespace {

/// How long after the receiver's deadline a sender that hears nothing gives up by itself.
constexpr Duration kGrace = std::chrono::milliseconds(100);

}  // namespace

SendingTable::SendingTable(const TransferLimits& limits, Outbox& outbox, SourceReader& reader, CompletionQueue& completions)
    : limits_(limits), outbox_(outbox), reader_(reader), completions_(completions), ended_(limits.remembered) {}

Status SendingTable::CheckSegment(TransferId id, const Outgoing& out, const Segment& s) const {
  if (s.index >= out.sizes.size()) {
    return InvalidError("transfer {}: segment {} does not exist; worker {} expects {}", id.value, s.index, out.to.value, out.sizes.size());
  }
  if (s.bytes != out.sizes[s.index]) {
    return InvalidError("transfer {}: segment {} has {} bytes; worker {} expects {}", id.value, s.index, s.bytes, out.to.value, out.sizes[s.index]);
  }
  return OkStatus();
}

Status SendingTable::Check(TransferId id, const Outgoing* out, WorkerId to, std::span<const Segment> segments) const {
  if (to.value == 0) return InvalidError("transfer {}: worker 0 is nobody", id.value);
  if (out == nullptr && active_.size() >= limits_.max_transfers) {
    return ExhaustedError("transfer {}: {} transfers are under way; wait, or raise the transport's limits", id.value, active_.size());
  }
  if (out != nullptr && out->to != to) return InvalidError("transfer {} goes to worker {}, not {}", id.value, out->to.value, to.value);
  if (segments.size() + (out == nullptr ? 0 : out->held.size()) > limits_.max_landings) {
    return ExhaustedError("transfer {}: more than {} segments", id.value, limits_.max_landings);
  }
  std::vector<uint32_t> indices;
  for (const Segment& s : segments) {
    indices.push_back(s.index);
    const bool pushed = out != nullptr && (out->granted ? s.index < out->sources.size() && out->sources[s.index].pushed : out->held_indices.contains(s.index));
    if (pushed) return InvalidError("transfer {}: segment {} is pushed twice", id.value, s.index);
    if (out != nullptr && out->granted) RETURN_IF_ERROR(CheckSegment(id, *out, s));
  }
  std::sort(indices.begin(), indices.end());
  const auto twice = std::adjacent_find(indices.begin(), indices.end());
  if (twice != indices.end()) return InvalidError("transfer {}: segment {} is pushed twice", id.value, *twice);
  return OkStatus();
}

Status SendingTable::Push(TransferId id, WorkerId to, std::span<const Segment> segments, Instant now) {
  if (const Status* ended = ended_.Find(id, to); ended != nullptr) {
    return ended->ok() ? InvalidError("transfer {}: all its segments have been sent", id.value) : *ended;
  }
  auto it = active_.find(id);
  RETURN_IF_ERROR(Check(id, it == active_.end() ? nullptr : &it->second, to, segments));
  if (it == active_.end()) {
    it = active_.emplace(id, Outgoing{}).first;
    it->second.to = to;
    SetExpiry(id, it->second, now + limits_.hold);
    outbox_.Send(to, MakeFrame({.type = FrameType::kAsk, .transfer = id.value}, ""));
  }
  Outgoing& out = it->second;
  out.pushed = true;
  for (const Segment& s : segments) {
    if (out.granted) {
      Queue(it, s);
    } else {
      out.held.push_back(s);
      out.held_indices.insert(s.index);
    }
  }
  return OkStatus();
}

void SendingTable::SetExpiry(TransferId id, Outgoing& out, Instant expires) {
  deadlines_.erase({out.expires, id});
  out.expires = expires;
  deadlines_.emplace(expires, id);
}

void SendingTable::Queue(ActiveMap::iterator it, const Segment& s) {
  Outgoing& out = it->second;
  const auto count = static_cast<uint32_t>(PieceCount(s.bytes, out.piece_bytes));
  out.sources[s.index] = {.data = s.data, .unacked = count, .pushed = true};
  for (uint32_t piece = 0; piece < count; ++piece) {
    out.pieces[out.first_piece[s.index] + piece] = kQueued;
    out.queue.push_back({s.index, piece});
  }
  TakeTurn(it->first, out);
}

void SendingTable::TakeTurn(TransferId id, Outgoing& out) {
  if (out.in_turn || out.queue.empty()) return;
  out.in_turn = true;
  Turns& turns = turns_[out.to];
  if (turns.order.empty()) turns.left = static_cast<int64_t>(limits_.piece_bytes);
  turns.order.push_back(id);
}

bool SendingTable::HasNext(WorkerId peer) const {
  const auto it = turns_.find(peer);
  return it != turns_.end() && !it->second.order.empty();
}

std::optional<OutPiece> SendingTable::Next(WorkerId peer, uint32_t path) {
  const auto found = turns_.find(peer);
  if (found == turns_.end()) return std::nullopt;
  Turns& turns = found->second;
  while (!turns.order.empty()) {
    const TransferId id = turns.order.front();
    const auto it = active_.find(id);
    if (it == active_.end() || it->second.queue.empty() || turns.left <= 0) {  // ended, sent out, or its turn is over
      turns.order.pop_front();
      const bool more = it != active_.end() && !it->second.queue.empty();
      if (more) turns.order.push_back(id);
      if (!more && it != active_.end()) it->second.in_turn = false;
      turns.left = static_cast<int64_t>(limits_.piece_bytes);
      continue;
    }
    Outgoing& out = it->second;
    const PieceRef ref = out.queue.front();
    out.queue.pop_front();
    uint8_t& state = out.pieces[out.first_piece[ref.index] + ref.piece];
    if (state != kQueued) continue;  // acknowledged while it waited to be sent again
    state = static_cast<uint8_t>(kFirstPath + path);
    const size_t bytes = PieceSize(out.sizes[ref.index], out.piece_bytes, ref.piece);
    turns.left -= static_cast<int64_t>(bytes + sizeof(FrameHeader));
    sent_bytes_ += bytes;
    const std::byte* base = out.sources[ref.index].data;
    return OutPiece{.header = {.body_bytes = static_cast<uint32_t>(bytes), .type = FrameType::kData, .transfer = id.value, .index = ref.index, .piece = ref.piece},
                    .data = bytes == 0 ? base : base + uint64_t{ref.piece} * out.piece_bytes};
  }
  turns_.erase(found);
  return std::nullopt;
}

void SendingTable::PathLost(WorkerId peer, uint32_t path) {
  for (auto& [id, out] : active_) {
    if (out.to == peer && out.granted) SendAgain(id, out, path);
  }
}

void SendingTable::SendAgain(TransferId id, Outgoing& out, std::optional<uint32_t> path) {
  for (uint32_t index = 0; index < out.sources.size(); ++index) {
    if (!out.sources[index].pushed || out.sources[index].unacked == 0) continue;
    for (uint32_t piece = 0; piece < PieceCount(out.sizes[index], out.piece_bytes); ++piece) {
      uint8_t& state = out.pieces[out.first_piece[index] + piece];
      if (path ? state != kFirstPath + *path : state < kFirstPath) continue;
      state = kQueued;
      out.queue.push_back({index, piece});
      out.resent = true;
    }
  }
  TakeTurn(id, out);
}

void SendingTable::AskAgain(WorkerId peer) {
  for (const auto& [id, out] : active_) {
    if (out.to == peer) outbox_.Send(peer, MakeFrame({.type = FrameType::kAsk, .transfer = id.value}, ""));
  }
}

void SendingTable::OnGrant(WorkerId peer, const FrameHeader& header, Bytes body, Instant now) {
  const TransferId id(header.transfer);
  if (const Status* ended = ended_.Find(id, peer); ended != nullptr) {
    if (!ended->ok()) outbox_.Send(peer, EndFrame(id, false, *ended));
    return;
  }
  auto it = active_.find(id);
  if (it != active_.end() && it->second.granted) return;  // said again after a path was lost
  if (it != active_.end() && it->second.to != peer) return outbox_.Send(peer, EndFrame(id, false, InvalidError("transfer {} goes to another worker", id.value)));
  auto grant = ParseGrant(header, body, limits_.max_landings);
  if (grant.ok() && ((it == active_.end() && active_.size() >= limits_.max_transfers) || landings_in_all_ + grant->sizes.size() > limits_.max_landings_in_all)) {
    grant = ExhaustedError("transfer {}: the sender has too many transfers or landings under way; try again later", id.value);
  }
  Instant expires{};
  if (grant.ok()) {
    const Duration left = std::clamp(grant->time_left, Duration::zero(), Duration(std::chrono::hours(24)));
    expires = now + left + kGrace;
    if (it == active_.end()) {
      it = active_.emplace(id, Outgoing{}).first;
      it->second.to = peer;
    }
  }
  const Status status = grant.ok() ? Adopt(it, std::move(grant).value()) : grant.status();
  if (status.ok()) return SetExpiry(id, it->second, expires);
  outbox_.Send(peer, EndFrame(id, false, status));
  if (it != active_.end()) Fail(it, status, it->second.pushed);
}

Status SendingTable::Adopt(ActiveMap::iterator it, Grant grant) {
  Outgoing& out = it->second;
  out.granted = true;
  out.piece_bytes = grant.piece_bytes;
  out.sizes = std::move(grant.sizes);
  landings_in_all_ += out.sizes.size();
  out.sources.resize(out.sizes.size());
  out.segments_left = out.sizes.size();
  uint64_t pieces = 0;
  for (const uint64_t bytes : out.sizes) {
    out.first_piece.push_back(static_cast<uint32_t>(pieces));
    pieces += PieceCount(bytes, out.piece_bytes);
    if (pieces > (uint64_t{1} << 26)) return ExhaustedError("transfer {}: {} pieces or more; send in several transfers", it->first.value, pieces);
  }
  out.pieces.assign(pieces, kIdle);
  const std::vector<Segment> held = std::exchange(out.held, {});
  out.held_indices.clear();
  for (const Segment& s : held) RETURN_IF_ERROR(CheckSegment(it->first, out, s));
  for (const Segment& s : held) Queue(it, s);
  return OkStatus();
}

Status SendingTable::OnAck(WorkerId peer, const FrameHeader& header, Bytes body) {
  const TransferId id(header.transfer);
  ASSIGN_OR_RETURN(const std::vector<PieceRef> refs, ParseAck(header, body));
  for (const PieceRef& ref : refs) {
    const auto it = active_.find(id);
    if (it == active_.end() || it->second.to != peer || !it->second.granted) return OkStatus();
    Acked(id, it->second, ref);
    if (it->second.segments_left == 0) Erase(it, OkStatus());
  }
  return OkStatus();
}

void SendingTable::Acked(TransferId id, Outgoing& out, PieceRef ref) {
  if (ref.index >= out.sources.size() || !out.sources[ref.index].pushed || ref.piece >= PieceCount(out.sizes[ref.index], out.piece_bytes)) return;
  uint8_t& state = out.pieces[out.first_piece[ref.index] + ref.piece];
  if (state == kAcked || state == kIdle) return;
  state = kAcked;
  if (--out.sources[ref.index].unacked > 0) return;
  // A copy of a piece may still be on its way over another path.
  if (out.resent && reader_.Detach(id)) SendAgain(id, out, std::nullopt);
  --out.segments_left;
  completions_.push_back({.kind = CompletionKind::kSent, .transfer = id, .index = ref.index});
}

void SendingTable::OnEnd(WorkerId peer, TransferId id, const Status& status) {
  const auto it = active_.find(id);
  if (it == active_.end()) {
    if (!status.ok()) ended_.Remember(id, peer, status);
    return;
  }
  if (it->second.to != peer) return;
  if (!status.ok()) return Fail(it, status, it->second.pushed);
  Outgoing& out = it->second;
  for (uint32_t index = 0; index < out.sources.size(); ++index) {
    if (out.sources[index].pushed && out.sources[index].unacked > 0) completions_.push_back({.kind = CompletionKind::kSent, .transfer = id, .index = index});
  }
  Erase(it, OkStatus());
}

void SendingTable::Cancel(TransferId id) {
  const Status status = CancelledError("transfer {} was cancelled by its sender", id.value);
  const auto it = active_.find(id);
  if (it == active_.end()) return ended_.Remember(id, WorkerId(), status);
  outbox_.Send(it->second.to, EndFrame(id, false, status));
  Fail(it, status, true);
}

void SendingTable::FailPeer(WorkerId peer, const Status& status) {
  for (auto it = active_.begin(); it != active_.end();) {
    const auto next = std::next(it);
    if (it->second.to == peer) Fail(it, status, it->second.pushed);
    it = next;
  }
  turns_.erase(peer);
}

void SendingTable::Expire(Instant now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const TransferId id = deadlines_.begin()->second;
    const auto it = active_.find(id);
    const Outgoing& out = it->second;
    const Status status = out.granted
        ? DeadlineError("transfer {} to worker {}: {} segments had not landed at the receiver's deadline", id.value, out.to.value, out.segments_left)
        : UnavailableError("transfer {}: worker {} did not ask for it within {:.1f} s", id.value, out.to.value, ToSeconds(limits_.hold));
    outbox_.Send(out.to, EndFrame(id, false, status));
    Fail(it, status, out.pushed);
  }
}

std::string SendingTable::Describe() const {
  std::map<TransferId, const Outgoing*> sorted;
  for (const auto& [id, out] : active_) sorted.emplace(id, &out);
  std::string text;
  for (const auto& [id, out] : sorted) {
    text += fmt::format("sending {} to {}:{}{}{}{} {} segments left, pieces", id.value, out->to.value, out->granted ? " granted" : "", out->pushed ? " pushed" : "",
                        out->resent ? " resent" : "", out->in_turn ? " in turn" : "", out->segments_left);
    for (const uint8_t piece : out->pieces) text += fmt::format(" {}", piece);
    for (const Segment& s : out->held) text += fmt::format(" held {}", s.index);
    for (const PieceRef& next : out->queue) text += fmt::format(" next {}.{}", next.index, next.piece);
    text += '\n';
  }
  for (const auto& [peer, turns] : std::map<WorkerId, Turns>(turns_.begin(), turns_.end())) {
    text += fmt::format("to {}: {} bytes of", peer.value, turns.left);
    for (const TransferId id : turns.order) text += fmt::format(" {}", id.value);
    text += '\n';
  }
  return text + "ended " + ended_.Describe();
}

void SendingTable::Fail(ActiveMap::iterator it, const Status& status, bool completion) {
  const TransferId id = it->first;
  Erase(it, status);
  if (completion) completions_.push_back({.kind = CompletionKind::kFailed, .transfer = id, .status = status});
}

void SendingTable::Erase(ActiveMap::iterator it, Status status) {
  const TransferId id = it->first;
  reader_.Detach(id);
  deadlines_.erase({it->second.expires, id});
  if (it->second.granted) landings_in_all_ -= it->second.sizes.size();
  ended_.Remember(id, it->second.to, std::move(status));
  active_.erase(it);
}

}  // namespace baton
