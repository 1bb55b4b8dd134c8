// The sending end of transfers: held (pushed, not yet expected) → pushing → sent | cancelled | expired | failed. Pure
// bookkeeping like the receiving end. Which piece goes next is decided here: transfers to one peer take turns of
// `piece_bytes`, so a small one never waits behind the whole of a big one.
#pragma once

#include <algorithm>
#include <deque>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "transport/frame.h"
#include "transport/transfer_record.h"

namespace baton {

/// Whatever reads segments on its own (a half-written frame, references that a peer follows).
class SourceReader {
 public:
  virtual ~SourceReader() = default;
  /// Segments of `id`, perhaps all, become the caller's again: after this returns none of what was taken by Next is read any
  /// more, or what is read is not taken for it. True: that may be so for any piece under way, and each has to be sent again.
  virtual bool Detach(TransferId id) = 0;
};

/// A piece to put on the wire.
struct OutPiece {
  FrameHeader header;  // a data frame with its body_bytes; the checksum is the wire's to add
  const std::byte* data = nullptr;
};

/// Thread: one.
class SendingTable {
 public:
  SendingTable(const TransferLimits& limits, Outbox& outbox, SourceReader& reader, CompletionQueue& completions);

  /// Transport::Push.
  Status Push(TransferId id, WorkerId to, std::span<const Segment> segments, Instant now);
  /// Transport::Cancel; a transfer that is not known yet is refused when it comes.
  void Cancel(TransferId id);
  /// Each transfer to `peer` ends with `status` (not ok); nobody is told.
  void FailPeer(WorkerId peer, const Status& status);
  void Expire(Instant now);

  /// The next piece for `peer`, taken off its queue and put on path `path` (below kMaxPaths).
  std::optional<OutPiece> Next(WorkerId peer, uint32_t path);
  bool HasNext(WorkerId peer) const;
  /// What went over that path and was not acknowledged is queued again.
  void PathLost(WorkerId peer, uint32_t path);

  /// Asks `peer` about all that goes to it: it has (re)connected, or may have lost a frame.
  void AskAgain(WorkerId peer);
  void OnGrant(WorkerId peer, const FrameHeader& header, Bytes body, Instant now);
  Status OnAck(WorkerId peer, const FrameHeader& header, Bytes body);  // kInvalid: malformed
  /// The receiving end ended the transfer; ok: all had landed.
  void OnEnd(WorkerId peer, TransferId id, const Status& status);

  Instant next_deadline() const { return deadlines_.empty() ? Instant::max() : deadlines_.begin()->first; }
  size_t active() const { return active_.size(); }
  bool Has(TransferId id) const { return active_.contains(id); }
  /// Whether a transfer to `peer` is under way.
  bool Busy(WorkerId peer) const {
    return std::any_of(active_.begin(), active_.end(), [peer](const auto& entry) { return entry.second.to == peer; });
  }
  uint64_t sent_bytes() const { return sent_bytes_; }
  /// As ReceivingTable::Describe.
  std::string Describe() const;

  static constexpr uint32_t kMaxPaths = 200;

 private:
  enum : uint8_t { kIdle = 0, kQueued = 1, kAcked = 2, kFirstPath = 3 };  // of a piece; kFirstPath + p: on path p
  struct Source {
    const std::byte* data = nullptr;
    uint32_t unacked = 0;  // pieces
    bool pushed = false;
  };
  struct Outgoing {
    WorkerId to;
    Instant expires;
    bool granted = false, pushed = false, resent = false, in_turn = false;
    std::vector<Segment> held;                 // until granted
    std::unordered_set<uint32_t> held_indices;
    uint64_t piece_bytes = 0;                  // from here on once granted
    std::vector<uint64_t> sizes;
    std::vector<Source> sources;
    std::vector<uint32_t> first_piece;
    std::vector<uint8_t> pieces;
    std::deque<PieceRef> queue;
    size_t segments_left = 0;
  };
  using ActiveMap = std::unordered_map<TransferId, Outgoing>;
  struct Turns {
    std::deque<TransferId> order;  // transfers with queued pieces
    int64_t left = 0;              // bytes of the front one's turn
  };

  Status Check(TransferId id, const Outgoing* out, WorkerId to, std::span<const Segment> segments) const;
  Status CheckSegment(TransferId id, const Outgoing& out, const Segment& s) const;
  Status Adopt(ActiveMap::iterator it, Grant grant);
  void Queue(ActiveMap::iterator it, const Segment& segment);
  void TakeTurn(TransferId id, Outgoing& out);
  /// Queues again what is on that path, or on any, and not acknowledged.
  void SendAgain(TransferId id, Outgoing& out, std::optional<uint32_t> path);
  void SetExpiry(TransferId id, Outgoing& out, Instant expires);
  void Acked(TransferId id, Outgoing& out, PieceRef ref);
  /// Ends it here, without a word to the peer; a completion only where the caller knows of the transfer.
  void Fail(ActiveMap::iterator it, const Status& status, bool completion);
  void Erase(ActiveMap::iterator it, Status status);

  const TransferLimits limits_;
  Outbox& outbox_;
  SourceReader& reader_;
  CompletionQueue& completions_;
  ActiveMap active_;
  std::unordered_map<WorkerId, Turns> turns_;
  std::set<std::pair<Instant, TransferId>> deadlines_;
  EndedTransfers ended_;
  uint64_t landings_in_all_ = 0, sent_bytes_ = 0;
};

}  // namespace baton
