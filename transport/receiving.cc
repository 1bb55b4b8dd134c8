#include "transport/receiving.h"

#include <algorithm>
#include <functional>
#include <map>

namespace baton {
namespace {

constexpr size_t kAcksAFrame = 4096;

}  // namespace

Status RegisteredMemory::Add(MutableBytes range) {
  if (range.empty()) return InvalidError("an arena of 0 bytes cannot be registered");
  for (const MutableBytes& known : ranges_) {
    if (std::less<>()(range.data(), known.data() + known.size()) && std::less<>()(known.data(), range.data() + range.size())) {
      return InvalidError("the arena overlaps one that is already registered");
    }
  }
  ranges_.push_back(range);
  return OkStatus();
}

bool RegisteredMemory::Contains(const std::byte* data, size_t bytes) const {
  for (const MutableBytes& range : ranges_) {
    // The end of one range may be the beginning of the next: a place that does not fit here may fit there.
    if (!std::less_equal<>()(range.data(), data) || !std::less_equal<>()(data, range.data() + range.size())) continue;
    if (bytes <= static_cast<size_t>(range.data() + range.size() - data)) return true;
  }
  return false;
}

ReceivingTable::ReceivingTable(const TransferLimits& limits, const RegisteredMemory& memory, Outbox& outbox, CompletionQueue& completions)
    : limits_(limits), memory_(memory), outbox_(outbox), completions_(completions), ended_(limits.remembered), early_ends_(limits.remembered) {}

Status ReceivingTable::Check(TransferId id, WorkerId from, std::span<const Landing> landings) const {
  if (from.value == 0) return InvalidError("transfer {}: worker 0 is nobody", id.value);
  if (landings.empty()) return InvalidError("transfer {}: no landings", id.value);
  if (Knows(id)) return AbortedError("transfer {} was used before; ids are never reused", id.value);
  if (landings.size() > limits_.max_landings || landings_in_all_ + landings.size() > limits_.max_landings_in_all || active_.size() >= limits_.max_transfers) {
    return ExhaustedError("transfer {}: {} landings, with {} transfers and {} landings under way; wait, or raise the transport's limits", id.value,
                          landings.size(), active_.size(), landings_in_all_);
  }
  std::vector<Landing> sorted;
  for (const Landing& l : landings) {
    if (l.bytes == 0) continue;
    if (!memory_.Contains(l.data, l.bytes)) return InvalidError("transfer {}: a landing of {} bytes lies outside the registered memory", id.value, l.bytes);
    if (l.bytes / limits_.piece_bytes >= UINT32_MAX) return InvalidError("transfer {}: a landing of {} bytes is too big", id.value, l.bytes);
    sorted.push_back(l);
  }
  std::sort(sorted.begin(), sorted.end(), [](const Landing& a, const Landing& b) { return std::less<>()(a.data, b.data); });
  for (size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i - 1].data + sorted[i - 1].bytes > sorted[i].data) return InvalidError("transfer {}: landings overlap", id.value);
  }
  return OkStatus();
}

Status ReceivingTable::Expect(TransferId id, WorkerId from, std::span<const Landing> landings, Instant deadline, Instant now,
                              uint32_t digest_run) {
  RETURN_IF_ERROR(Check(id, from, landings));
  uint64_t pieces = 0;
  for (const Landing& l : landings) pieces += PieceCount(l.bytes, limits_.piece_bytes);
  if (pieces > UINT32_MAX) return InvalidError("transfer {}: too big; send in several transfers", id.value);
  Incoming in;
  in.from = from;
  in.landings.assign(landings.begin(), landings.end());
  for (const Landing& l : landings) {
    const auto count = static_cast<uint32_t>(PieceCount(l.bytes, limits_.piece_bytes));
    in.first_piece.push_back(in.first_piece.empty() ? 0 : in.first_piece.back() + in.missing.back());
    in.missing.push_back(count);
  }
  in.landed.assign(pieces, false);
  in.landings_left = landings.size();
  in.deadline = deadline;
  in.digest_run = digest_run;
  for (size_t at = 0; digest_run > 0 && at < landings.size(); at += digest_run) in.runs.push_back({.next = {static_cast<uint32_t>(at), 0}});
  landings_in_all_ += landings.size();
  const auto it = active_.emplace(id, std::move(in)).first;
  deadlines_.emplace(deadline, id);
  if (const Status* early = early_ends_.Find(id, from); early != nullptr) {
    Fail(id, *early);
  } else {
    outbox_.Send(from, MakeGrant(id, it->second, now));
  }
  return OkStatus();
}

std::string ReceivingTable::MakeGrant(TransferId id, const Incoming& in, Instant now) const {
  Grant grant{.transfer = id, .piece_bytes = static_cast<uint32_t>(limits_.piece_bytes), .time_left = in.deadline - now, .sizes = {}};
  grant.sizes.reserve(in.landings.size());
  for (const Landing& l : in.landings) grant.sizes.push_back(l.bytes);
  return GrantFrame(grant);
}

void ReceivingTable::GrantAgain(WorkerId peer, Instant now) {
  for (const auto& [id, in] : active_) {
    if (in.from == peer) outbox_.Send(peer, MakeGrant(id, in, now));
  }
}

void ReceivingTable::Erase(ActiveMap::iterator it, Status status) {
  const TransferId id = it->first;
  deadlines_.erase({it->second.deadline, id});
  landings_in_all_ -= it->second.landings.size();
  ended_.Remember(id, it->second.from, std::move(status));
  active_.erase(it);
}

void ReceivingTable::Fail(TransferId id, Status status) {
  const auto it = active_.find(id);
  if (it == active_.end()) return;
  outbox_.Send(it->second.from, EndFrame(id, true, status));
  Erase(it, status);
  completions_.push_back({.kind = CompletionKind::kFailed, .transfer = id, .receiving = true, .status = std::move(status)});
}

void ReceivingTable::FailPeer(WorkerId peer, const Status& status) {
  std::vector<TransferId> ids;
  for (const auto& [id, in] : active_) {
    if (in.from == peer) ids.push_back(id);
  }
  for (const TransferId id : ids) Fail(id, status);
}

void ReceivingTable::Expire(Instant now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const TransferId id = deadlines_.begin()->second;
    const Incoming& in = active_.at(id);
    Fail(id, DeadlineError("transfer {} from worker {}: {} of {} landings were still empty at the deadline", id.value, in.from.value,
                           in.landings_left, in.landings.size()));
  }
}

std::byte* ReceivingTable::Locate(WorkerId peer, const FrameHeader& h, size_t bytes) {
  const TransferId id(h.transfer);
  const auto it = active_.find(id);
  if (it == active_.end() || it->second.from != peer) return nullptr;
  Incoming& in = it->second;
  if (h.index >= in.landings.size()) {
    Fail(id, InvalidError("transfer {}: worker {} sent segment {} of {}", id.value, peer.value, h.index, in.landings.size()));
    return nullptr;
  }
  const Landing& landing = in.landings[h.index];
  if (h.piece >= PieceCount(landing.bytes, limits_.piece_bytes) || bytes != PieceSize(landing.bytes, limits_.piece_bytes, h.piece)) {
    Fail(id, InvalidError("transfer {}: worker {} sent {} bytes as piece {} of segment {}, which has {} bytes", id.value, peer.value, bytes,
                          h.piece, h.index, landing.bytes));
    return nullptr;
  }
  if (in.landed[in.first_piece[h.index] + h.piece]) return nullptr;
  static std::byte empty_landing;  // zero bytes go here; never written
  return landing.data == nullptr ? &empty_landing : landing.data + size_t{h.piece} * limits_.piece_bytes;
}

size_t ReceivingTable::SizeOf(const FrameHeader& h) const {
  const auto it = active_.find(TransferId(h.transfer));
  if (it == active_.end() || h.index >= it->second.landings.size()) return 0;
  return PieceSize(it->second.landings[h.index].bytes, limits_.piece_bytes, h.piece);
}

void ReceivingTable::Landed(WorkerId peer, const FrameHeader& h) {
  const TransferId id(h.transfer);
  const auto it = active_.find(id);
  if (it == active_.end() || it->second.from != peer) return Drained(peer, h);
  Incoming& in = it->second;
  CHECK(h.index < in.landings.size());  // Locate has checked it
  const size_t bit = in.first_piece[h.index] + h.piece;
  Acknowledge(id, in, h);
  if (in.landed[bit]) return;
  in.landed[bit] = true;
  landed_bytes_ += PieceSize(in.landings[h.index].bytes, limits_.piece_bytes, h.piece);
  const std::optional<Digest128> digest = Digest(in, h.index);
  if (--in.missing[h.index] > 0) return;
  completions_.push_back({.kind = CompletionKind::kSegmentLanded, .transfer = id, .index = h.index, .receiving = true,
                          .digested = digest.has_value(), .digest = digest.value_or(Digest128())});
  if (--in.landings_left > 0) return;
  completions_.push_back({.kind = CompletionKind::kTransferLanded, .transfer = id, .receiving = true});
  SendAcks(id, in);
  Erase(it, OkStatus());
}

std::optional<Digest128> ReceivingTable::Digest(Incoming& in, uint32_t index) const {
  if (in.digest_run == 0) return std::nullopt;
  Run& run = in.runs[index / in.digest_run];
  const auto end = static_cast<uint32_t>(std::min<uint64_t>(in.landings.size(), (uint64_t{index} / in.digest_run + 1) * in.digest_run));
  while (run.next.index < end && in.landed[in.first_piece[run.next.index] + run.next.piece]) {
    const Landing& landing = in.landings[run.next.index];
    const size_t bytes = PieceSize(landing.bytes, limits_.piece_bytes, run.next.piece);
    if (bytes > 0) run.hasher.Update({landing.data + uint64_t{run.next.piece} * limits_.piece_bytes, bytes});
    if (++run.next.piece == PieceCount(landing.bytes, limits_.piece_bytes)) run.next = {run.next.index + 1, 0};
  }
  if (run.next.index < end) return std::nullopt;
  return run.hasher.Digest();
}

void ReceivingTable::Drained(WorkerId peer, const FrameHeader& h) {
  const TransferId id(h.transfer);
  if (const auto it = active_.find(id); it != active_.end() && it->second.from == peer) {
    Incoming& in = it->second;
    const bool known = h.index < in.landings.size() && h.piece < PieceCount(in.landings[h.index].bytes, limits_.piece_bytes);
    if (known && in.landed[in.first_piece[h.index] + h.piece]) return Acknowledge(id, in, h);  // sent again over another path
    return Fail(id, InvalidError("transfer {}: worker {} sent segment {} before it was asked for", id.value, peer.value, h.index));
  }
  const Status* ended = ended_.Find(id, peer);
  outbox_.Send(peer, EndFrame(id, true, ended != nullptr ? *ended : NotFoundError("transfer {} is not expected from worker {}", id.value, peer.value)));
}

void ReceivingTable::Acknowledge(TransferId id, Incoming& in, const FrameHeader& h) {
  if (in.acks.empty()) to_ack_.push_back(id);
  in.acks.push_back({h.index, h.piece});
  if (in.acks.size() >= kAcksAFrame) SendAcks(id, in);
}

void ReceivingTable::SendAcks(TransferId id, Incoming& in) {
  if (!in.acks.empty()) outbox_.Send(in.from, AckFrame(id, in.acks));
  in.acks.clear();
}

/// What was said before may have been lost with a connection that carried it.
void ReceivingTable::AcknowledgeAgain(TransferId id, const Incoming& in) {
  std::vector<PieceRef> landed;
  const auto send = [&] {
    if (!landed.empty()) outbox_.Send(in.from, AckFrame(id, landed));
    landed.clear();
  };
  for (uint32_t index = 0; index < in.landings.size(); ++index) {
    for (uint32_t piece = 0; piece < PieceCount(in.landings[index].bytes, limits_.piece_bytes); ++piece) {
      if (in.landed[in.first_piece[index] + piece]) landed.push_back({index, piece});
      if (landed.size() >= kAcksAFrame) send();
    }
  }
  send();
}

void ReceivingTable::FlushAcks() {
  for (const TransferId id : to_ack_) {
    const auto it = active_.find(id);
    if (it != active_.end()) SendAcks(id, it->second);
  }
  to_ack_.clear();
}

void ReceivingTable::OnAsk(WorkerId peer, TransferId id, Instant now) {
  const auto it = active_.find(id);
  if (it != active_.end() && it->second.from == peer) {
    outbox_.Send(peer, MakeGrant(id, it->second, now));
    AcknowledgeAgain(id, it->second);
  } else if (const Status* ended = ended_.Find(id, peer); ended != nullptr) {
    outbox_.Send(peer, EndFrame(id, true, *ended));
  }
}

std::string ReceivingTable::Describe() const {
  std::map<TransferId, const Incoming*> sorted;
  for (const auto& [id, in] : active_) sorted.emplace(id, &in);
  std::string out;
  for (const auto& [id, in] : sorted) {
    out += fmt::format("receiving {} from {}: {} of {} landings missing, pieces ", id.value, in->from.value, in->landings_left, in->landings.size());
    for (const bool landed : in->landed) out += landed ? '1' : '0';
    for (const PieceRef& ack : in->acks) out += fmt::format(" ack {}.{}", ack.index, ack.piece);
    for (const Run& run : in->runs) out += fmt::format(" hashed to {}.{}", run.next.index, run.next.piece);
    out += '\n';
  }
  return out + "ended " + ended_.Describe() + "ended early " + early_ends_.Describe();
}

void ReceivingTable::OnEnd(WorkerId peer, TransferId id, Status status) {
  if (status.ok()) return;  // a sender has no way to say that all landed
  const auto it = active_.find(id);
  if (it == active_.end()) {
    if (!ended_.Knows(id)) early_ends_.Remember(id, peer, std::move(status));
  } else if (it->second.from == peer) {
    const TransferId ended = it->first;
    Erase(it, status);
    completions_.push_back({.kind = CompletionKind::kFailed, .transfer = ended, .receiving = true, .status = std::move(status)});
  }
}

}  // namespace baton
