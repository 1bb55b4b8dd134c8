// Both tables of transfers and the air between them, small enough to be copied and compared: what the model checker walks
// through. The tables are the real ones; frames travel as bytes.
#pragma once

#include <array>
#include <map>
#include <set>

#include "transport/receiving.h"
#include "transport/sending.h"

namespace baton {

inline constexpr WorkerId kSender{1}, kReceiver{2};
inline constexpr size_t kTransfers = 2, kSlotBytes = 64;  // a transfer's part of the arenas

struct Action {
  enum Kind { kExpect, kPush, kBegin, kTake, kDeliver, kCancelReceiver, kCancelSender, kExpire, kLose, kRepeat, kPathLost, kReceiverDies, kSenderDies, kFlush } kind;
  uint64_t transfer = 0;
  size_t which = 0;   // kPush: the segment (kBegin: Expect and its push in one step); kDeliver, kLose, kRepeat: the frame in the
                      // air; kFlush: 1 for frames to the receiver
  uint32_t path = 0;  // kTake, kFlush: it goes over that one; kLose, kPathLost: that one breaks
};
inline constexpr uint32_t kPaths = 2;

/// How frames travel. kAnyOrder: each by itself, however it likes; where one is lost, only that one. kPaths: as over sockets: words
/// wait until they are put on a path, each path keeps its order, and one that breaks takes all that is on it along.
enum class Air { kAnyOrder, kOnPaths };
/// What the two transfers consist of: sizes of their segments.
using Sizes = std::array<std::vector<size_t>, kTransfers>;

class World {
 public:
  /// `script`: steps that happen once each, at any time.
  World(Air air, Sizes sizes, std::vector<Action> script);

  /// All that can happen next.
  std::vector<Action> Possible() const;
  void Do(const Action& action);
  /// Nothing is in the air and nothing can be taken; only a disturbance may still come.
  bool Quiet() const;
  /// All that is left of the script happens, and then the deadlines: nothing may be under way after that, and everything must
  /// have ended as promised. Disturbances do not happen any more.
  void Settle();
  /// Whatever is in the air arrives, and what is said to it.
  void DeliverAll() {
    while (!air_.empty()) Do({Action::kDeliver});
  }
  bool Landed(uint64_t id) const { return landed_.contains(TransferId(id)); }
  /// Equal for equal states.
  Digest128 Fingerprint() const;

 private:
  struct Frame {
    bool to_receiver;
    std::string bytes;
    int path = -1;  // none: of a word that may be on any (kAnyOrder), or is not on its way yet (kOnPaths)
    auto operator<=>(const Frame&) const = default;
  };
  /// What the tables refer to; one for all worlds, so that tables can be copied. It serves the world that is at work.
  struct Surroundings;
  static Surroundings& around();

  void Enter();  // my bytes lie in the arenas
  void Leave();  // they are kept here again; completions are checked and noted
  void Act(const Action& action);
  std::vector<Action> Scripted() const;
  bool MayBreak() const;
  const std::vector<size_t>& SizesOf(TransferId id) const { return sizes_[id.value - 1]; }
  bool CanTake() const { return !sender_dead_ && !receiver_dead_ && sending_.HasNext(kReceiver); }
  void Expect(TransferId id);
  void Push(TransferId id, uint32_t index);
  void Take(uint32_t path);
  void LosePath(uint32_t path);
  void Deliver(size_t which, bool once);
  void Note();
  void NoteReceived(const Completion& completion);
  void NoteSent(const Completion& completion);
  void Release(TransferId id, uint32_t index);

  Air how_;
  Sizes sizes_;
  std::vector<Action> script_;
  bool sender_dead_ = false, receiver_dead_ = false;
  std::array<std::byte, kSlotBytes*(kTransfers + 1)> arena_{}, sources_{};
  std::vector<Frame> air_;  // the oldest first
  ReceivingTable receiving_;
  SendingTable sending_;
  std::set<TransferId> expected_, landed_;
  std::map<TransferId, int> receiver_ends_, sender_failures_;
  std::map<std::pair<TransferId, uint32_t>, int> sent_;
  std::map<TransferId, std::vector<std::byte>> frozen_;
};

}  // namespace baton
