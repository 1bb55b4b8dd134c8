// The two ends of a transfer as pure state machines: every interleaving of a small instance is walked through, with frames
// reordered, lost or doubled, and either end giving up at each step (docs/transfer.md draws the states).
#include <array>
#include <set>

#include "base/random.h"
#include "transport/receiving.h"
#include "transport/sending.h"

namespace baton {
namespace {

constexpr WorkerId kSender{1}, kReceiver{2};
constexpr size_t kPiece = 16;
const std::vector<size_t> kSizes = {24, 0};  // two pieces, and an empty one

std::byte SourceByte(uint64_t transfer, uint32_t index, size_t at) { return static_cast<std::byte>(transfer * 31 + index * 7 + at + 1); }

/// Both tables and what is between them.
class World final : private SourceReader {
 public:
  World() { EXPECT_TRUE(memory_.Add(arena_).ok()); }

  struct Action {
    enum Kind { kExpect, kPush, kTake, kDeliver, kCancelReceiver, kCancelSender, kExpire, kLose, kRepeat, kPathLost, kReceiverDies, kSenderDies } kind;
    uint64_t transfer = 0;
    size_t which = 0;  // segment, or frame in the air
  };

  void Do(const Action& a) {
    const TransferId id(a.transfer);
    switch (a.kind) {
      case Action::kExpect: return Expect(id);
      case Action::kPush: return Push(id, static_cast<uint32_t>(a.which));
      case Action::kTake: return Take();
      case Action::kDeliver: return Deliver(a.which, true);
      case Action::kRepeat: return Deliver(a.which, false);
      case Action::kLose: air_.erase(air_.begin() + static_cast<ptrdiff_t>(a.which)); return PathLost();
      case Action::kPathLost: return PathLost();
      case Action::kCancelReceiver: receiving_.Fail(id, CancelledError("receiver")); return Note();
      case Action::kCancelSender: sending_.Cancel(id); return Note();
      case Action::kExpire: receiving_.Expire(deadline_); return Note();
      case Action::kReceiverDies: air_.clear(); receiver_dead_ = true; sending_.FailPeer(kReceiver, UnavailableError("dead")); return Note();
      case Action::kSenderDies: air_.clear(); sender_dead_ = true; receiving_.FailPeer(kSender, UnavailableError("dead")); return Note();
    }
  }

  size_t frames() const { return air_.size(); }
  bool CanTake() const { return !sender_dead_ && sending_.HasNext(kReceiver); }

  /// All that is left happens; then nothing may be under way and everything must have ended as promised.
  void Settle() {
    for (int i = 0; i < 200 && (CanTake() || !air_.empty()); ++i) CanTake() ? Take() : Deliver(0, true);
    receiving_.FlushAcks();
    while (!air_.empty()) Deliver(0, true);
    receiving_.Expire(deadline_);
    while (!air_.empty()) Deliver(0, true);
    sending_.Expire(deadline_ + std::chrono::hours(1));
    Note();
    ASSERT_EQ(receiving_.active(), 0u);
    ASSERT_EQ(sending_.active(), 0u);
    for (const auto& [id, ends] : receiver_ends_) ASSERT_EQ(ends, 1) << "transfer " << id.value;
    for (const TransferId id : expected_) ASSERT_TRUE(receiver_ends_.contains(id)) << "transfer " << id.value << " has no end";
    for (const auto& [id, failures] : sender_failures_) ASSERT_LE(failures, 1);
    for (const auto& [key, count] : sent_) ASSERT_EQ(count, 1) << "a segment is reported sent once";
    for (const auto& [id, image] : frozen_) ASSERT_EQ(image, Image(id)) << "a landing changed after the end of transfer " << id.value;
  }
  bool Landed(uint64_t id) const { return landed_.contains(TransferId(id)); }

 private:
  struct Frame {
    bool to_receiver;
    std::string bytes;
  };
  class Way final : public Outbox {
   public:
    Way(World& world, bool to_receiver) : world_(world), to_receiver_(to_receiver) {}
    void Send(WorkerId, std::string frame) override {
      if (!world_.sender_dead_ && !world_.receiver_dead_) world_.air_.push_back({to_receiver_, std::move(frame)});
    }

   private:
    World& world_;
    const bool to_receiver_;
  };

  void Detach(TransferId) override {}  // frames in the air are copies
  void Release(TransferId id, uint32_t index) { std::fill_n(Source(id, index), kSizes[index], std::byte{0}); }  // the caller writes over it
  std::byte* Source(TransferId id, uint32_t index) { return sources_.data() + id.value * 64 + index * 32; }
  std::byte* Landing_(TransferId id, uint32_t index) { return arena_.data() + id.value * 64 + index * 32; }
  std::vector<std::byte> Image(TransferId id) { return {arena_.data() + id.value * 64, arena_.data() + id.value * 64 + 64}; }

  void Expect(TransferId id) {
    std::vector<Landing> landings;
    for (uint32_t i = 0; i < kSizes.size(); ++i) landings.push_back({Landing_(id, i), kSizes[i]});
    if (receiver_dead_) return;
    ASSERT_TRUE(receiving_.Expect(id, kSender, landings, deadline_, now_).ok());
    expected_.insert(id);
    if (sender_dead_) receiving_.FailPeer(kSender, UnavailableError("dead"));
    Note();
  }
  void Push(TransferId id, uint32_t index) {
    for (size_t at = 0; at < kSizes[index]; ++at) Source(id, index)[at] = SourceByte(id.value, index, at);
    const Segment segment{index, Source(id, index), kSizes[index]};
    if (sender_dead_) return;
    (void)sending_.Push(id, kReceiver, {&segment, 1}, now_);  // refused where the transfer has ended
    if (receiver_dead_) sending_.FailPeer(kReceiver, UnavailableError("dead"));
    Note();
  }
  void Take() {
    const auto piece = sending_.Next(kReceiver, 0);
    if (!piece) return;
    air_.push_back({true, MakeFrame(piece->header, piece->header.body_bytes == 0 ? std::string_view() : AsText({piece->data, piece->header.body_bytes}))});
  }
  void PathLost() {
    if (sender_dead_ || receiver_dead_) return;
    sending_.PathLost(kReceiver, 0);
    sending_.AskAgain(kReceiver);
    receiving_.GrantAgain(kSender, now_);
  }
  void Deliver(size_t which, bool once) {
    const Frame frame = air_[which];
    if (once) air_.erase(air_.begin() + static_cast<ptrdiff_t>(which));
    const FrameHeader h = *ParseHeader(AsBytes(frame.bytes));
    const Bytes body = AsBytes(frame.bytes).subspan(sizeof h);
    const TransferId id(h.transfer);
    if (h.type == FrameType::kData) {
      std::byte* place = receiving_.Locate(kSender, h, body.size());
      if (place != nullptr) std::copy(body.begin(), body.end(), place);
      place != nullptr ? receiving_.Landed(kSender, h) : receiving_.Drained(kSender, h);
      receiving_.FlushAcks();
    } else if (h.type == FrameType::kEnd) {
      frame.to_receiver ? receiving_.OnEnd(kSender, id, ParseEnd(h, body)) : sending_.OnEnd(kReceiver, id, ParseEnd(h, body));
    } else if (h.type == FrameType::kAsk) {
      receiving_.OnAsk(kSender, id, now_);
    } else if (h.type == FrameType::kGrant) {
      sending_.OnGrant(kReceiver, h, body, now_);
    } else {
      EXPECT_TRUE(sending_.OnAck(kReceiver, h, body).ok());
    }
    Note();
  }

  /// Takes the completions and checks each at the moment it comes.
  void Note() {
    for (const Completion& c : std::exchange(received_, {})) {
      if (c.kind == CompletionKind::kSegmentLanded) {
        for (size_t at = 0; at < kSizes[c.index]; ++at) ASSERT_EQ(Landing_(c.transfer, c.index)[at], SourceByte(c.transfer.value, c.index, at));
        continue;
      }
      ++receiver_ends_[c.transfer];
      if (c.kind == CompletionKind::kTransferLanded) landed_.insert(c.transfer);
      frozen_[c.transfer] = Image(c.transfer);
    }
    for (const Completion& c : std::exchange(sent_queue_, {})) {
      if (c.kind == CompletionKind::kSent) {
        ++sent_[{c.transfer, c.index}];
        Release(c.transfer, c.index);
        continue;
      }
      ++sender_failures_[c.transfer];
      for (uint32_t i = 0; i < kSizes.size(); ++i) Release(c.transfer, i);
    }
  }

  const Instant now_{std::chrono::seconds(1)}, deadline_{std::chrono::seconds(5)};
  bool sender_dead_ = false, receiver_dead_ = false;
  std::array<std::byte, 256> arena_{}, sources_{};
  std::vector<Frame> air_;
  Way to_receiver_{*this, true}, to_sender_{*this, false};
  RegisteredMemory memory_;
  CompletionQueue received_, sent_queue_;
  ReceivingTable receiving_{WithPiece(), memory_, to_sender_, received_};
  SendingTable sending_{WithPiece(), to_receiver_, *this, sent_queue_};
  std::set<TransferId> expected_, landed_;
  std::map<TransferId, int> receiver_ends_, sender_failures_;
  std::map<std::pair<TransferId, uint32_t>, int> sent_;
  std::map<TransferId, std::vector<std::byte>> frozen_;

  static TransferLimits WithPiece() {
    TransferLimits limits;
    limits.piece_bytes = kPiece;
    return limits;
  }
};

using Action = World::Action;

/// Walks depth first through every order of `script` (each step once, a segment's push and so on in any order) and of what
/// is in the air, by running each schedule from its beginning.
class Explorer {
 public:
  explicit Explorer(std::vector<Action> script) : script_(std::move(script)) {}

  uint64_t Run() {
    while (RunOne() && !::testing::Test::HasFatalFailure()) {
      size_t at = path_.size();
      while (at > 0 && path_[at - 1].chosen + 1 == path_[at - 1].options) --at;
      if (at == 0) return schedules_;
      path_.resize(at);
      ++path_.back().chosen;
    }
    return schedules_;
  }
  bool always_landed = true;

 private:
  struct Choice {
    size_t chosen, options;
  };

  bool RunOne() {
    World world;
    std::vector<Action> left = script_;
    for (size_t depth = 0;; ++depth) {
      std::vector<std::pair<Action, int>> options;  // what can happen now; the script's step it uses up
      for (size_t i = 0; i < left.size(); ++i) {
        const bool of_a_frame = left[i].kind == Action::kLose || left[i].kind == Action::kRepeat;
        if (!of_a_frame) options.push_back({left[i], static_cast<int>(i)});
        for (size_t f = 0; of_a_frame && f < world.frames(); ++f) options.push_back({{left[i].kind, 0, f}, static_cast<int>(i)});
      }
      if (world.CanTake()) options.push_back({{Action::kTake}, -1});
      for (size_t f = 0; f < world.frames(); ++f) options.push_back({{Action::kDeliver, 0, f}, -1});
      if (options.empty() || depth >= kMaxDepth) break;
      if (depth == path_.size()) path_.push_back({0, options.size()});
      const auto [action, used] = options[path_[depth].chosen];
      world.Do(action);
      if (used >= 0) left.erase(left.begin() + used);
    }
    for (const Action& rest : left) {
      if (rest.kind != Action::kLose && rest.kind != Action::kRepeat) world.Do(rest);
    }
    world.Settle();
    always_landed = always_landed && world.Landed(1);
    return ++schedules_ < kMaxSchedules;
  }

  static constexpr size_t kMaxDepth = 9;
  static constexpr uint64_t kMaxSchedules = 400000;
  const std::vector<Action> script_;
  std::vector<Choice> path_;
  uint64_t schedules_ = 0;
};

const std::vector<Action> kPlain = {{Action::kExpect, 1}, {Action::kPush, 1, 0}, {Action::kPush, 1, 1}};

std::vector<Action> With(const Action& disturbance) {
  std::vector<Action> script = kPlain;
  script.push_back(disturbance);
  return script;
}

TEST(RegisteredMemoryTest, TheSecondOfTwoAdjacentArenasIsFound) {
  std::array<std::byte, 32> bytes{};
  for (const bool low_first : {true, false}) {
    RegisteredMemory memory;
    const MutableBytes low(bytes.data(), 16), high(bytes.data() + 16, 16);
    ASSERT_TRUE(memory.Add(low_first ? low : high).ok());
    ASSERT_TRUE(memory.Add(low_first ? high : low).ok());
    EXPECT_TRUE(memory.Contains(bytes.data() + 16, 16)) << "the end of one is the beginning of the other";
    EXPECT_TRUE(memory.Contains(bytes.data() + 20, 12));
    EXPECT_TRUE(memory.Contains(bytes.data(), 16));
    EXPECT_FALSE(memory.Contains(bytes.data() + 16, 17));
    EXPECT_FALSE(memory.Contains(bytes.data() + 8, 16)) << "a place lies in one arena";
  }
}

TEST(TransferTables, EveryOrderOfAnUndisturbedTransferLands) {
  Explorer explorer(kPlain);
  EXPECT_GT(explorer.Run(), 1000u);
  EXPECT_TRUE(explorer.always_landed);
}

TEST(TransferTables, ALostPathAtAnyMomentLosesNothing) {
  Explorer lost(With({Action::kPathLost})), frame(With({Action::kLose}));
  EXPECT_GT(lost.Run(), 1000u);
  EXPECT_TRUE(lost.always_landed);
  EXPECT_GT(frame.Run(), 1000u);
  EXPECT_TRUE(frame.always_landed);
}

TEST(TransferTables, ADoubledFrameAtAnyMomentChangesNothing) {
  Explorer explorer(With({Action::kRepeat}));
  EXPECT_GT(explorer.Run(), 1000u);
  EXPECT_TRUE(explorer.always_landed);
}

TEST(TransferTables, EitherEndMayGiveUpAtAnyMoment) {
  for (const Action::Kind kind : {Action::kCancelReceiver, Action::kCancelSender, Action::kExpire}) {
    Explorer explorer(With({kind, 1}));
    EXPECT_GT(explorer.Run(), 1000u) << kind;
  }
}

TEST(TransferTables, EitherEndMayDieAtAnyMoment) {
  for (const Action::Kind kind : {Action::kReceiverDies, Action::kSenderDies}) {
    Explorer explorer(With({kind, 1}));
    EXPECT_GT(explorer.Run(), 1000u) << kind;
  }
}

TEST(TransferTables, RandomSchedulesOfTwoTransfersWithEveryDisturbance) {
  Random random(99);
  for (int round = 0; round < 20000 && !HasFatalFailure(); ++round) {
    World world;
    std::vector<Action> left;
    for (const uint64_t id : {1, 2}) {
      for (Action a : kPlain) a.transfer = id, left.push_back(a);
      if (random.Below(3) == 0) left.push_back({static_cast<Action::Kind>(Action::kCancelReceiver + random.Below(3)), id});
    }
    if (random.Below(4) == 0) left.push_back({random.Below(2) == 0 ? Action::kReceiverDies : Action::kSenderDies});
    random.Shuffle(left);
    for (int step = 0; step < 40; ++step) {
      const uint64_t dice = random.Below(10);
      if (dice < 3 && !left.empty()) {
        world.Do(left.back());
        left.pop_back();
      } else if (dice < 5 && world.CanTake()) {
        world.Do({Action::kTake});
      } else if (world.frames() > 0) {
        const size_t frame = random.Below(world.frames());
        world.Do({dice == 9 ? Action::kLose : dice == 8 ? Action::kRepeat : Action::kDeliver, 0, frame});
      }
    }
    for (const Action& rest : left) world.Do(rest);
    world.Settle();
  }
}

TEST(TransferTables, TransfersToOnePeerTakeTurns) {
  struct Nobody final : Outbox, SourceReader {
    void Send(WorkerId, std::string) override {}
    void Detach(TransferId) override {}
  } nobody;
  TransferLimits limits;
  limits.piece_bytes = 1000;
  CompletionQueue completions;
  SendingTable table(limits, nobody, nobody, completions);
  const std::vector<std::byte> source(100000);
  for (const uint64_t id : {1, 2}) {
    const std::string grant = GrantFrame({TransferId(id), 1000, std::chrono::seconds(1), {id == 1 ? 100000u : 500u}});
    table.OnGrant(kReceiver, *ParseHeader(AsBytes(grant)), AsBytes(grant).subspan(sizeof(FrameHeader)), Instant());
    const Segment segment{0, source.data(), id == 1 ? 100000u : 500u};
    ASSERT_TRUE(table.Push(TransferId(id), kReceiver, {&segment, 1}, Instant()).ok());
  }
  std::vector<uint64_t> order;
  for (int i = 0; i < 4; ++i) order.push_back(table.Next(kReceiver, 0)->header.transfer);
  EXPECT_LE(std::find(order.begin(), order.end(), 2u) - order.begin(), 1) << "the small one waits for one piece of the big one, not for all";
}

TEST(TransferTables, LimitsHold) {
  struct Nobody final : Outbox, SourceReader {
    void Send(WorkerId, std::string) override {}
    void Detach(TransferId) override {}
  } nobody;
  TransferLimits limits;
  limits.max_transfers = 3;
  CompletionQueue completions;
  SendingTable sending(limits, nobody, nobody, completions);
  for (uint64_t id = 1; id <= 100; ++id) {
    const std::string grant = GrantFrame({TransferId(id), 1000, std::chrono::seconds(1), {10}});
    sending.OnGrant(kReceiver, *ParseHeader(AsBytes(grant)), AsBytes(grant).subspan(sizeof(FrameHeader)), Instant());
  }
  EXPECT_EQ(sending.active(), 3u) << "a peer that announces without end is not remembered without end";
  const Segment segment{0, nullptr, 0};
  EXPECT_EQ(sending.Push(TransferId(500), kReceiver, {&segment, 1}, Instant()).code(), StatusCode::kExhausted);
}

TEST(Frames, NonsenseIsRefused) {
  FrameHeader h{.body_bytes = 8, .type = FrameType::kGrant, .index = 1, .piece = 16};
  EXPECT_FALSE(ParseGrant(h, AsBytes("12345678"), 10).ok()) << "a grant of no landing";
  h.index = 11;
  EXPECT_EQ(ParseGrant(h, AsBytes("12345678"), 10).status().code(), StatusCode::kExhausted);
  std::string runs(8, '\0');
  AppendNumber(&runs, uint32_t{4000000000});
  AppendNumber(&runs, uint64_t{1});
  h.index = 2;
  EXPECT_FALSE(ParseGrant(h, AsBytes(runs), 10).ok()) << "a run longer than the whole";
  h.piece = 0;
  EXPECT_FALSE(ParseGrant(h, AsBytes(runs), 10).ok());
  EXPECT_FALSE(ParseAck({.type = FrameType::kAck}, AsBytes("1234567")).ok());
  Random random(3);
  for (int i = 0; i < 20000; ++i) {
    std::array<uint64_t, 12> noise;
    for (uint64_t& word : noise) word = random.Next64() >> random.Below(64);
    const Bytes bytes = std::as_bytes(std::span(noise));
    const auto header = ParseHeader(bytes);
    if (!header.ok()) continue;
    EXPECT_LE(header->body_bytes, kMaxBodyBytes);
    (void)ParseGrant(*header, bytes.subspan(32), 100);
    (void)ParseEnd(*header, bytes.subspan(32));
  }
  const Status end = ParseEnd({.index = 77}, AsBytes("why"));
  EXPECT_EQ(end.code(), StatusCode::kInternal);
  EXPECT_EQ(end.message(), "why");
}

}  // namespace
}  // namespace baton
