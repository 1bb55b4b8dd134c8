#include "transfer_world_support.h"

#include <algorithm>

namespace baton {
namespace {

constexpr size_t kPiece = 16;
constexpr Instant kNow{std::chrono::seconds(1)}, kDeadline{std::chrono::seconds(5)};

TransferLimits Limits() {
  TransferLimits limits;
  limits.piece_bytes = kPiece;
  return limits;
}

std::byte SourceByte(TransferId id, uint32_t index, size_t at) { return static_cast<std::byte>(id.value * 31 + index * 7 + at + 1); }

bool IsDisturbance(const Action& a) { return a.kind >= Action::kCancelReceiver; }
bool OfAFrame(const Action& a) { return a.kind == Action::kLose || a.kind == Action::kRepeat; }

}  // namespace

struct World::Surroundings final : Outbox, SourceReader {
  Surroundings() { EXPECT_TRUE(memory.Add(arena).ok()); }
  void Send(WorkerId peer, std::string frame) override {
    if (!at_work->sender_dead_ && !at_work->receiver_dead_) at_work->air_.push_back({peer == kReceiver, std::move(frame)});
  }
  bool Detach(TransferId) override { return false; }  // frames in the air are copies

  std::byte* Source(TransferId id, uint32_t index) { return sources.data() + id.value * kSlotBytes + index * 32; }
  std::byte* Landing_(TransferId id, uint32_t index) { return arena.data() + id.value * kSlotBytes + index * 32; }
  std::vector<std::byte> Image(TransferId id) const {
    const auto begin = arena.begin() + static_cast<ptrdiff_t>(id.value * kSlotBytes);
    return {begin, begin + kSlotBytes};
  }

  World* at_work = nullptr;
  std::array<std::byte, kSlotBytes*(kTransfers + 1)> arena{}, sources{};
  RegisteredMemory memory;
  CompletionQueue received, sent;
};

World::Surroundings& World::around() {
  static Surroundings surroundings;
  return surroundings;
}

World::World(Air air, Sizes sizes, std::vector<Action> script)
    : how_(air),
      sizes_(std::move(sizes)),
      script_(std::move(script)),
      receiving_(Limits(), around().memory, around(), around().received),
      sending_(Limits(), around(), around(), around().sent) {}

bool World::MayBreak() const {
  return std::any_of(script_.begin(), script_.end(), [](const Action& a) { return a.kind == Action::kLose || a.kind == Action::kPathLost; });
}

std::vector<Action> World::Scripted() const {
  std::vector<Action> out;
  for (const Action& a : script_) {
    const uint32_t paths = a.kind == Action::kLose || a.kind == Action::kPathLost ? kPaths : 1;
    for (uint32_t path = 0; path < paths; ++path) {
      if (!OfAFrame(a)) out.push_back({a.kind, a.transfer, a.which, path});
      for (size_t f = 0; OfAFrame(a) && f < air_.size(); ++f) {
        const bool on_it = a.kind == Action::kRepeat || air_[f].path < 0 || air_[f].path == static_cast<int>(path);
        if (on_it) out.push_back({a.kind, a.transfer, f, path});
      }
    }
  }
  return out;
}

std::vector<Action> World::Possible() const {
  std::vector<Action> out = Scripted();
  const uint32_t paths = MayBreak() ? kPaths : 1;  // else it does not matter over which one something goes
  for (uint32_t path = 0; path < paths; ++path) {
    if (CanTake()) out.push_back({Action::kTake, 0, 0, path});
    for (const bool to_receiver : {false, true}) {
      const bool waits = std::any_of(air_.begin(), air_.end(), [&](const Frame& f) { return f.path < 0 && f.to_receiver == to_receiver; });
      if (how_ == Air::kOnPaths && waits) out.push_back({Action::kFlush, 0, to_receiver ? 1u : 0u, path});
    }
  }
  for (size_t f = 0; f < air_.size(); ++f) {
    const auto before = air_.begin() + static_cast<ptrdiff_t>(f);
    const bool first = std::none_of(air_.begin(), before, [&](const Frame& other) {
      return how_ == Air::kAnyOrder ? other == air_[f]  // its twin does the same
                                    : other.path == air_[f].path && other.to_receiver == air_[f].to_receiver;
    });
    if (first && (how_ == Air::kAnyOrder || air_[f].path >= 0)) out.push_back({Action::kDeliver, 0, f});
  }
  return out;
}

bool World::Quiet() const { return air_.empty() && !CanTake() && std::all_of(script_.begin(), script_.end(), IsDisturbance); }

void World::Do(const Action& action) {
  Enter();
  Act(action);
  Leave();
  const auto step = std::find_if(script_.begin(), script_.end(), [&](const Action& a) {
    return a.kind == action.kind && a.transfer == action.transfer && (OfAFrame(a) || a.which == action.which);
  });
  if (step != script_.end()) script_.erase(step);
}

void World::Act(const Action& a) {
  const TransferId id(a.transfer);
  switch (a.kind) {
    case Action::kExpect: return Expect(id);
    case Action::kPush: return Push(id, static_cast<uint32_t>(a.which));
    case Action::kBegin: Expect(id); return Push(id, 0);
    case Action::kTake: return Take(a.path);
    case Action::kDeliver: return Deliver(a.which, true);
    case Action::kRepeat: return Deliver(a.which, false);
    case Action::kLose: air_.erase(air_.begin() + static_cast<ptrdiff_t>(a.which)); return LosePath(a.path);
    case Action::kPathLost:
      if (how_ == Air::kOnPaths) std::erase_if(air_, [&](const Frame& f) { return f.path == static_cast<int>(a.path); });
      return LosePath(a.path);
    case Action::kFlush:
      for (Frame& f : air_) {
        if (f.path < 0 && f.to_receiver == (a.which == 1)) f.path = static_cast<int>(a.path);
      }
      return;
    case Action::kCancelReceiver: return receiving_.Fail(id, CancelledError("receiver"));
    case Action::kCancelSender: return sending_.Cancel(id);
    case Action::kExpire: return receiving_.Expire(kDeadline);
    case Action::kReceiverDies: air_.clear(); receiver_dead_ = true; return sending_.FailPeer(kReceiver, UnavailableError("dead"));
    case Action::kSenderDies: air_.clear(); sender_dead_ = true; return receiving_.FailPeer(kSender, UnavailableError("dead"));
  }
}

void World::Settle() {
  std::erase_if(script_, IsDisturbance);
  while (!script_.empty()) Do(Action(script_.front()));
  for (int i = 0; i < 200 && (CanTake() || !air_.empty()); ++i) Do(CanTake() ? Action{Action::kTake} : Action{Action::kDeliver});
  ASSERT_TRUE(air_.empty()) << "the ends talk without end";
  Enter();
  receiving_.Expire(kDeadline);
  Leave();
  while (!air_.empty()) Do({Action::kDeliver});
  Enter();
  sending_.Expire(kDeadline + std::chrono::hours(1));
  Leave();
  ASSERT_EQ(receiving_.active(), 0u) << receiving_.Describe();
  ASSERT_EQ(sending_.active(), 0u) << sending_.Describe();
  for (const TransferId id : expected_) ASSERT_TRUE(receiver_dead_ || receiver_ends_.contains(id)) << "transfer " << id.value << " has no end";
  for (const auto& [id, ends] : receiver_ends_) ASSERT_EQ(ends, 1) << "transfer " << id.value;
  for (const auto& [id, failures] : sender_failures_) ASSERT_LE(failures, 1);
  for (const auto& [key, count] : sent_) ASSERT_EQ(count, 1) << "a segment is reported sent once";
}

void World::Enter() {
  around().at_work = this;
  around().arena = arena_;
  around().sources = sources_;
}

void World::Leave() {
  Note();
  arena_ = around().arena;
  sources_ = around().sources;
  for (const auto& [id, image] : frozen_) ASSERT_EQ(image, around().Image(id)) << "a landing changed after the end of transfer " << id.value;
}

void World::Release(TransferId id, uint32_t index) { std::fill_n(around().Source(id, index), SizesOf(id)[index], std::byte{0}); }  // the caller writes over it

void World::Expect(TransferId id) {
  if (receiver_dead_) return;
  std::vector<Landing> landings;
  for (uint32_t i = 0; i < SizesOf(id).size(); ++i) landings.push_back({around().Landing_(id, i), SizesOf(id)[i]});
  ASSERT_TRUE(receiving_.Expect(id, kSender, landings, kDeadline, kNow, 1).ok());
  expected_.insert(id);
  if (sender_dead_) receiving_.FailPeer(kSender, UnavailableError("dead"));
}

void World::Push(TransferId id, uint32_t index) {
  if (sender_dead_) return;
  for (size_t at = 0; at < SizesOf(id)[index]; ++at) around().Source(id, index)[at] = SourceByte(id, index, at);
  const Segment segment{index, around().Source(id, index), SizesOf(id)[index]};
  (void)sending_.Push(id, kReceiver, {&segment, 1}, kNow);  // refused where the transfer has ended
  if (receiver_dead_) sending_.FailPeer(kReceiver, UnavailableError("dead"));
}

void World::Take(uint32_t path) {
  const auto piece = sending_.Next(kReceiver, path);
  if (!piece) return;
  air_.push_back({true, MakeFrame(piece->header, piece->header.body_bytes == 0 ? std::string_view() : AsText({piece->data, piece->header.body_bytes})), static_cast<int>(path)});
}

/// Both ends notice that a connection broke; a frame that was lost is gone already, others got through.
void World::LosePath(uint32_t path) {
  if (sender_dead_ || receiver_dead_) return;
  sending_.PathLost(kReceiver, path);
  sending_.AskAgain(kReceiver);
  receiving_.GrantAgain(kSender, kNow);
}

void World::Deliver(size_t which, bool once) {
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
    receiving_.OnAsk(kSender, id, kNow);
  } else if (h.type == FrameType::kGrant) {
    sending_.OnGrant(kReceiver, h, body, kNow);
  } else {
    EXPECT_TRUE(sending_.OnAck(kReceiver, h, body).ok());
  }
}

/// Takes the completions and checks each at the moment it comes.
void World::Note() {
  for (const Completion& c : std::exchange(around().received, {})) NoteReceived(c);
  for (const Completion& c : std::exchange(around().sent, {})) NoteSent(c);
}

void World::NoteReceived(const Completion& c) {
  if (c.kind == CompletionKind::kSegmentLanded) {
    const size_t bytes = SizesOf(c.transfer)[c.index];
    for (size_t at = 0; at < bytes; ++at) ASSERT_EQ(around().Landing_(c.transfer, c.index)[at], SourceByte(c.transfer, c.index, at));
    ASSERT_TRUE(c.digested);
    ASSERT_EQ(c.digest, Xxh3({around().Landing_(c.transfer, c.index), bytes})) << "in whatever order its pieces came";
    return;
  }
  ASSERT_EQ(++receiver_ends_[c.transfer], 1) << "transfer " << c.transfer.value << " ended twice";
  if (c.kind == CompletionKind::kTransferLanded) landed_.insert(c.transfer);
  frozen_[c.transfer] = around().Image(c.transfer);
}

void World::NoteSent(const Completion& c) {
  if (c.kind == CompletionKind::kSent) {
    ASSERT_EQ(++sent_[std::pair(c.transfer, c.index)], 1);
    Release(c.transfer, c.index);
    return;
  }
  ASSERT_EQ(++sender_failures_[c.transfer], 1);
  for (uint32_t i = 0; i < SizesOf(c.transfer).size(); ++i) Release(c.transfer, i);
}

Digest128 World::Fingerprint() const {
  std::string out = fmt::format("{}{}\n", sender_dead_, receiver_dead_);
  std::vector<std::string> parts;  // of equal frames in another order the same becomes, where order does not count
  for (const Action& a : script_) parts.push_back(fmt::format("step {} {} {}\n", static_cast<int>(a.kind), a.transfer, a.which));
  std::map<std::pair<bool, int>, uint32_t> place;  // in its line
  for (const Frame& f : air_) parts.push_back(fmt::format("{}{}{:03}{}", f.to_receiver, f.path, how_ == Air::kOnPaths ? place[{f.to_receiver, f.path}]++ : 0, f.bytes));
  std::sort(parts.begin(), parts.end());
  for (const std::string& part : parts) out += part;
  out += receiving_.Describe() + sending_.Describe() + std::string(AsText(arena_)) + std::string(AsText(sources_));
  for (const auto& [id, ends] : receiver_ends_) out += fmt::format("ended {} ", id.value);
  for (const auto& [id, failures] : sender_failures_) out += fmt::format("failed {} ", id.value);
  for (const auto& [key, count] : sent_) out += fmt::format("sent {}.{} ", key.first.value, key.second);
  return Xxh3(AsBytes(out));
}

}  // namespace baton
