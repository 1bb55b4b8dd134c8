// The receiving end of transfers: expected → landed | cancelled | expired | failed. Pure bookkeeping: frames in, frames and
// completions out, places for bytes; no I/O and no clock of its own, so that a test can walk through every interleaving.
#pragma once

#include <algorithm>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "transport/frame.h"
#include "transport/transfer_record.h"

namespace baton {

/// The memory that landings may lie in.
class RegisteredMemory {
 public:
  Status Add(MutableBytes range);  // kInvalid: empty, or overlaps another
  bool Contains(const std::byte* data, size_t bytes) const;

 private:
  std::vector<MutableBytes> ranges_;
};

/// Thread: one.
class ReceivingTable {
 public:
  ReceivingTable(const TransferLimits& limits, const RegisteredMemory& memory, Outbox& outbox, CompletionQueue& completions);

  /// Transport::Expect.
  Status Expect(TransferId id, WorkerId from, std::span<const Landing> landings, Instant deadline, Instant now, uint32_t digest_run = 0);
  /// Ends it with `status` (not ok), unless it has ended: one kFailed, and the sender is told.
  void Fail(TransferId id, Status status);
  void FailPeer(WorkerId peer, const Status& status);
  void Expire(Instant now);
  /// Announces again all that `peer` is to send: it has (re)connected or may have lost a frame.
  void GrantAgain(WorkerId peer, Instant now);

  /// Where the bytes of a data frame go: null if they must be thrown away, because the transfer or this piece has ended,
  /// or because they do not fit the agreement (which ends the transfer). `bytes` is the payload's size. Ask again before
  /// each write: a place is good only until the next call of another method.
  std::byte* Locate(WorkerId peer, const FrameHeader& header, size_t bytes);
  /// The size of a piece that Locate gave a place to; 0 where the transfer has ended since.
  size_t SizeOf(const FrameHeader& header) const;
  /// All bytes of that piece are in the place Locate gave.
  void Landed(WorkerId peer, const FrameHeader& header);
  /// Some or all bytes of that piece were thrown away: the sender hears what became of the transfer.
  void Drained(WorkerId peer, const FrameHeader& header);
  /// Acknowledges what has landed since the last call, a frame a transfer.
  void FlushAcks();
  /// The sending end waits, perhaps for something that was lost: it hears again all there is to say, which is nothing before Expect.
  void OnAsk(WorkerId peer, TransferId id, Instant now);
  /// The sending end ended the transfer.
  void OnEnd(WorkerId peer, TransferId id, Status status);

  /// When Expire has something to do; Instant::max() for never.
  Instant next_deadline() const { return deadlines_.empty() ? Instant::max() : deadlines_.begin()->first; }
  size_t active() const { return active_.size(); }
  /// Whether Expect was called for it, as far back as is remembered.
  bool Knows(TransferId id) const { return active_.contains(id) || ended_.Knows(id); }
  /// Whether a transfer from `peer` is under way.
  bool Busy(WorkerId peer) const {
    return std::any_of(active_.begin(), active_.end(), [peer](const auto& entry) { return entry.second.from == peer; });
  }
  uint64_t landed_bytes() const { return landed_bytes_; }
  /// A line a transfer under way, and those that ended: all that decides what happens next. For logs.
  std::string Describe() const;

 private:
  /// What is hashed together, and how far that has come: pieces may land in any order.
  struct Run {
    Xxh3Hasher hasher;
    PieceRef next;
  };
  struct Incoming {
    WorkerId from;
    std::vector<Landing> landings;
    std::vector<uint32_t> first_piece;  // of each landing, in `landed`
    std::vector<uint32_t> missing;      // pieces of each landing
    std::vector<bool> landed;           // a bit a piece
    size_t landings_left = 0;
    Instant deadline;
    uint32_t digest_run = 0;            // landings a run
    std::vector<Run> runs;
    std::vector<PieceRef> acks;
  };
  using ActiveMap = std::unordered_map<TransferId, Incoming>;

  Status Check(TransferId id, WorkerId from, std::span<const Landing> landings) const;
  std::string MakeGrant(TransferId id, const Incoming& in, Instant now) const;
  void Acknowledge(TransferId id, Incoming& in, const FrameHeader& header);
  void SendAcks(TransferId id, Incoming& in);
  void AcknowledgeAgain(TransferId id, const Incoming& in);
  /// Hashes what has landed without a gap of the run that landing `index` belongs to; its digest once that is all.
  std::optional<Digest128> Digest(Incoming& in, uint32_t index) const;
  /// Takes it out, remembers how it ended.
  void Erase(ActiveMap::iterator it, Status status);

  const TransferLimits limits_;
  const RegisteredMemory& memory_;
  Outbox& outbox_;
  CompletionQueue& completions_;
  ActiveMap active_;
  std::set<std::pair<Instant, TransferId>> deadlines_;
  std::vector<TransferId> to_ack_;
  EndedTransfers ended_;
  EndedTransfers early_ends_;  // the sender gave up before Expect
  uint64_t landings_in_all_ = 0, landed_bytes_ = 0;
};

}  // namespace baton
