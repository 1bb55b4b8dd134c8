// The receiving end of transfers by itself: which bytes it lets in, what it acknowledges, how each transfer ends, and what it
// answers to peers that are late, confused or hostile.
#include "base/random.h"
#include "table_support.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr size_t kPiece = 16;

class Receiving : public ::testing::Test {
 protected:
  Receiving() { EXPECT_TRUE(memory_.Add(arena_).ok()); }

  static TransferLimits Limits() {
    TransferLimits limits;
    limits.piece_bytes = kPiece;
    limits.max_transfers = 4;
    limits.max_landings = 8;
    limits.max_landings_in_all = 12;
    limits.remembered = 6;
    return limits;
  }
  /// Landings of these sizes, one behind the other from `at` on.
  std::vector<Landing> Landings(const std::vector<size_t>& sizes, size_t at = 0) {
    std::vector<Landing> out;
    for (const size_t bytes : sizes) {
      out.push_back({arena_.data() + at, bytes});
      at += bytes;
    }
    return out;
  }
  Status Expect(uint64_t id, const std::vector<size_t>& sizes, double deadline_s = 5, WorkerId from = kAlice, size_t at = 0) {
    return table_.Expect(TransferId(id), from, Landings(sizes, at), At(deadline_s), kT0);
  }
  static FrameHeader Data(uint64_t id, uint32_t index, uint32_t piece = 0) { return {.type = FrameType::kData, .transfer = id, .index = index, .piece = piece}; }
  /// A whole piece of `bytes` arrives; false where it went nowhere.
  bool Arrive(uint64_t id, uint32_t index, uint32_t piece, size_t bytes, WorkerId from = kAlice) {
    const FrameHeader h = Data(id, index, piece);
    std::byte* place = table_.Locate(from, h, bytes);
    if (place == nullptr) {
      table_.Drained(from, h);
      return false;
    }
    std::fill_n(place, bytes, std::byte{0x5A});
    table_.Landed(from, h);
    return true;
  }
  /// Pieces acknowledged since the last call: "1.0".
  std::vector<std::string> Acked() {
    table_.FlushAcks();
    std::vector<std::string> out;
    for (const Said& s : ears_.Take(FrameType::kAck)) {
      const auto refs = ParseAck(s.header(), s.body());
      EXPECT_TRUE(refs.ok());
      for (const PieceRef& ref : *refs) out.push_back(fmt::format("{}.{}", ref.index, ref.piece));
    }
    return out;
  }
  /// The ends said since the last call.
  std::vector<std::pair<uint32_t, Status>> Ends() {
    std::vector<std::pair<uint32_t, Status>> out;
    for (const Said& s : ears_.Take(FrameType::kEnd)) {
      EXPECT_NE(s.header().flags & kFromReceiver, 0) << "this end speaks as the receiver";
      out.emplace_back(s.to.value, ParseEnd(s.header(), s.body()));
    }
    return out;
  }

  std::array<std::byte, 4096> arena_{};
  RegisteredMemory memory_;
  Ears ears_;
  CompletionQueue completions_;
  ReceivingTable table_{Limits(), memory_, ears_, completions_};
};

TEST_F(Receiving, AGrantSaysWhatIsExpectedAndHowLong) {
  ASSERT_TRUE(Expect(3, {40, 0, 40}, 2.5).ok());
  const auto grants = ears_.Take(FrameType::kGrant);
  ASSERT_EQ(grants.size(), 1u);
  EXPECT_EQ(grants[0].to, kAlice);
  const auto grant = ParseGrant(grants[0].header(), grants[0].body(), 8);
  ASSERT_TRUE(grant.ok());
  EXPECT_EQ(grant->piece_bytes, kPiece);
  EXPECT_EQ(grant->time_left, FromSeconds(2.5));
  EXPECT_THAT(grant->sizes, ElementsAre(40, 0, 40));
}

TEST_F(Receiving, PiecesLandInTheirPlacesInAnyOrder) {
  ASSERT_TRUE(Expect(1, {40, 0, 5}).ok());
  EXPECT_EQ(table_.Locate(kAlice, Data(1, 0, 2), 8), arena_.data() + 32) << "the third piece of the first landing";
  EXPECT_EQ(table_.Locate(kAlice, Data(1, 2, 0), 5), arena_.data() + 40);
  EXPECT_NE(table_.Locate(kAlice, Data(1, 1, 0), 0), nullptr) << "an empty piece has a place, too";
  EXPECT_TRUE(Arrive(1, 0, 2, 8));
  EXPECT_TRUE(Arrive(1, 1, 0, 0));
  EXPECT_TRUE(Arrive(1, 0, 0, 16));
  EXPECT_THAT(Told(completions_), ElementsAre("segment 1.1")) << "landing 0 still lacks a piece";
  EXPECT_TRUE(Arrive(1, 2, 0, 5));
  EXPECT_TRUE(Arrive(1, 0, 1, 16));
  EXPECT_THAT(Told(completions_), ElementsAre("segment 1.2", "segment 1.0", "landed 1"));
  EXPECT_EQ(table_.landed_bytes(), 45u);
  EXPECT_EQ(table_.active(), 0u);
  EXPECT_EQ(table_.next_deadline(), Instant::max());
}

TEST_F(Receiving, AcknowledgesEachPieceAndTheLastAtOnce) {
  ASSERT_TRUE(Expect(1, {32, 4}).ok());
  EXPECT_TRUE(Arrive(1, 0, 1, 16));
  EXPECT_TRUE(Arrive(1, 0, 0, 16));
  EXPECT_THAT(Acked(), ElementsAre("0.1", "0.0"));
  EXPECT_THAT(Acked(), IsEmpty()) << "once";
  EXPECT_FALSE(Arrive(1, 0, 0, 16)) << "it came again over another path";
  EXPECT_THAT(Acked(), ElementsAre("0.0")) << "whoever sends it again has not heard";
  EXPECT_EQ(table_.landed_bytes(), 32u) << "counted once";
  EXPECT_TRUE(Arrive(1, 1, 0, 4));
  const auto acks = ears_.Take(FrameType::kAck);
  ASSERT_EQ(acks.size(), 1u) << "the transfer has ended: nothing is flushed for it later";
}

/// Each way in which a data frame can contradict the agreement: the transfer ends, with what was wrong, and both ends know.
TEST_F(Receiving, DataThatDoesNotFitEndsTheTransfer) {
  const struct {
    FrameHeader header;
    size_t bytes;
    const char* says;
  } cases[] = {
      {Data(0, 2), 16, "segment 2 of 2"},
      {Data(0, 0xffffffff), 16, "segment 4294967295 of 2"},
      {Data(0, 0, 3), 16, "16 bytes as piece 3 of segment 0, which has 40 bytes"},
      {Data(0, 0, 0xffffffff), 16, "as piece 4294967295"},
      {Data(0, 0, 0), 15, "15 bytes as piece 0"},
      {Data(0, 0, 0), 17, "17 bytes as piece 0"},
      {Data(0, 0, 2), 16, "16 bytes as piece 2"},
      {Data(0, 0, 2), 0, "0 bytes as piece 2"},
      {Data(0, 1, 0), 1, "1 bytes as piece 0 of segment 1, which has 0 bytes"},
  };
  uint64_t id = 0;
  for (auto c : cases) {
    ASSERT_TRUE(Expect(++id, {40, 0}).ok());
    ears_.said.clear();
    c.header.transfer = id;
    EXPECT_EQ(table_.Locate(kAlice, c.header, c.bytes), nullptr);
    const auto ends = Ends();
    ASSERT_EQ(ends.size(), 1u) << c.says;
    EXPECT_EQ(ends[0].second.code(), StatusCode::kInvalid);
    EXPECT_THAT(ends[0].second.message(), HasSubstr(c.says));
    EXPECT_THAT(Told(completions_), ElementsAre(fmt::format("failed {} invalid", id)));
    EXPECT_EQ(table_.active(), 0u);
  }
  EXPECT_TRUE(std::all_of(arena_.begin(), arena_.end(), [](std::byte b) { return b == std::byte{0}; })) << "not a byte was written";
}

TEST_F(Receiving, OnlyTheOneThatIsExpectedIsHeard) {
  ASSERT_TRUE(Expect(1, {16}).ok());
  ears_.said.clear();
  EXPECT_FALSE(Arrive(1, 0, 0, 16, kBob));
  const auto ends = Ends();
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].first, kBob.value);
  EXPECT_EQ(ends[0].second.code(), StatusCode::kNotFound);
  table_.OnEnd(kBob, TransferId(1), CancelledError("mine, says Bob"));
  table_.FailPeer(kBob, UnavailableError("gone"));
  EXPECT_THAT(Told(completions_), IsEmpty());
  EXPECT_TRUE(table_.Busy(kAlice));
  EXPECT_FALSE(table_.Busy(kBob));
  EXPECT_TRUE(Arrive(1, 0, 0, 16));
  EXPECT_THAT(Told(completions_), ElementsAre("segment 1.0", "landed 1"));
}

TEST_F(Receiving, WhatComesAfterTheEndIsToldHowItEnded) {
  ASSERT_TRUE(Expect(1, {16}).ok());
  table_.Fail(TransferId(1), CancelledError("changed my mind"));
  ASSERT_TRUE(Expect(2, {16}).ok());
  EXPECT_TRUE(Arrive(2, 0, 0, 16));
  ears_.said.clear();
  EXPECT_FALSE(Arrive(1, 0, 0, 16));
  EXPECT_FALSE(Arrive(2, 0, 0, 16));
  EXPECT_FALSE(Arrive(99, 0, 0, 16));
  const auto ends = Ends();
  ASSERT_EQ(ends.size(), 3u);
  EXPECT_EQ(ends[0].second, CancelledError("changed my mind"));
  EXPECT_TRUE(ends[1].second.ok()) << "all had landed";
  EXPECT_EQ(ends[2].second.code(), StatusCode::kNotFound);
  EXPECT_EQ(ends[2].second.message(), "transfer 99 is not expected from worker 1");
}

TEST_F(Receiving, AnIdIsUsedOnce) {
  ASSERT_TRUE(Expect(1, {16}).ok());
  EXPECT_EQ(Expect(1, {16}).code(), StatusCode::kAborted) << "under way";
  table_.Fail(TransferId(1), CancelledError("over"));
  EXPECT_EQ(Expect(1, {16}).code(), StatusCode::kAborted) << "ended";
  EXPECT_TRUE(table_.Knows(TransferId(1)));
  EXPECT_FALSE(table_.Knows(TransferId(2)));
}

TEST_F(Receiving, RemembersABoundedNumberOfEnds) {
  for (uint64_t id = 1; id <= 10; ++id) {
    ASSERT_TRUE(Expect(id, {1}).ok());
    table_.Fail(TransferId(id), CancelledError("over"));
  }
  for (uint64_t id = 1; id <= 10; ++id) EXPECT_EQ(table_.Knows(TransferId(id)), id > 4) << id;
}

TEST_F(Receiving, DeadlinesComeInTheirOrder) {
  ASSERT_TRUE(Expect(1, {1}, 3, kAlice, 0).ok());
  ASSERT_TRUE(Expect(2, {1}, 1, kAlice, 1).ok());
  ASSERT_TRUE(Expect(3, {1, 1}, 2, kAlice, 2).ok());
  EXPECT_EQ(table_.next_deadline(), At(1));
  table_.Expire(At(0.999));
  EXPECT_THAT(Told(completions_), IsEmpty());
  EXPECT_TRUE(Arrive(3, 0, 0, 1));
  Told(completions_);
  table_.Expire(At(2));
  EXPECT_EQ(completions_.back().status.message(), "transfer 3 from worker 1: 1 of 2 landings were still empty at the deadline");
  EXPECT_THAT(Told(completions_), ElementsAre("failed 2 deadline", "failed 3 deadline"));
  EXPECT_EQ(table_.next_deadline(), At(3));
  table_.Fail(TransferId(1), CancelledError("earlier than its deadline"));
  EXPECT_EQ(table_.next_deadline(), Instant::max());
  table_.Expire(At(1e6));
  EXPECT_THAT(Told(completions_), ElementsAre("failed 1 cancelled")) << "one end each";
}

TEST_F(Receiving, RefusesWhatCannotBe) {
  EXPECT_EQ(Expect(1, {}).message(), "transfer 1: no landings");
  EXPECT_EQ(Expect(1, {1}, 5, WorkerId(0)).message(), "transfer 1: worker 0 is nobody");
  EXPECT_EQ(Expect(1, {16}, 5, kAlice, arena_.size() - 15).code(), StatusCode::kInvalid) << "one byte over the end";
  const std::vector<Landing> overlap = {{arena_.data(), 10}, {arena_.data() + 30, 10}, {arena_.data() + 9, 1}};
  EXPECT_EQ(table_.Expect(TransferId(1), kAlice, overlap, At(1), kT0).message(), "transfer 1: landings overlap");
  const std::vector<Landing> empties = {{arena_.data(), 10}, {arena_.data() + 5, 0}, {nullptr, 0}};
  EXPECT_TRUE(table_.Expect(TransferId(1), kAlice, empties, At(1), kT0).ok()) << "an empty one is nowhere";
  EXPECT_EQ(completions_.size() + table_.active(), 1u) << "what is refused leaves nothing";
}

TEST_F(Receiving, LimitsAreOfTransfersLandingsAndAllTogether) {
  EXPECT_EQ(Expect(1, std::vector<size_t>(9, 1)).code(), StatusCode::kExhausted) << "of one transfer";
  ASSERT_TRUE(Expect(1, std::vector<size_t>(8, 1)).ok());
  EXPECT_EQ(Expect(2, std::vector<size_t>(5, 1), 5, kAlice, 100).code(), StatusCode::kExhausted) << "in all";
  ASSERT_TRUE(Expect(2, std::vector<size_t>(4, 1), 5, kAlice, 100).ok());
  table_.Fail(TransferId(1), CancelledError("over"));
  for (uint64_t id = 3; id <= 5; ++id) ASSERT_TRUE(Expect(id, {1}, 5, kAlice, 100 * id).ok());
  const Status full = Expect(6, {1}, 5, kAlice, 600);
  EXPECT_EQ(full.code(), StatusCode::kExhausted) << "transfers";
  EXPECT_THAT(full.message(), HasSubstr("4 transfers and 7 landings under way"));
  table_.FailPeer(kAlice, UnavailableError("gone"));
  EXPECT_EQ(table_.active(), 0u);
  EXPECT_TRUE(Expect(6, std::vector<size_t>(8, 1)).ok()) << "everything was given back";
}

TEST_F(Receiving, ASenderMayGiveUpBeforeItIsExpected) {
  table_.OnEnd(kAlice, TransferId(1), CancelledError("early"));
  table_.OnEnd(kAlice, TransferId(2), OkStatus());
  ASSERT_TRUE(Expect(1, {16}).ok()) << "its end is a completion, not an error of this call";
  EXPECT_THAT(Told(completions_), ElementsAre("failed 1 cancelled"));
  ASSERT_TRUE(Expect(2, {16}).ok());
  EXPECT_THAT(Told(completions_), IsEmpty()) << "a sender has no way to say that all landed";
}

/// Somebody else's word about a transfer must neither end it nor stand in for its sender's.
TEST_F(Receiving, AnEarlyEndOfAnotherWorkerIsNothing) {
  table_.OnEnd(kBob, TransferId(1), CancelledError("Bob"));
  table_.OnEnd(kAlice, TransferId(1), DeadlineError("Alice"));
  ASSERT_TRUE(Expect(1, {16}).ok());
  ASSERT_EQ(completions_.size(), 1u);
  EXPECT_EQ(completions_[0].status, DeadlineError("Alice"));
}

TEST_F(Receiving, AnAskIsAnsweredWithAllThereIs) {
  table_.OnAsk(kAlice, TransferId(1), kT0);
  EXPECT_THAT(ears_.said, IsEmpty()) << "before Expect there is nothing to say: the grant will be the answer";
  ASSERT_TRUE(Expect(1, {32, 4}).ok());
  EXPECT_TRUE(Arrive(1, 0, 1, 16));
  table_.FlushAcks();
  ears_.said.clear();
  table_.OnAsk(kBob, TransferId(1), kT0);
  EXPECT_THAT(ears_.said, IsEmpty()) << "it is none of Bob's";
  table_.OnAsk(kAlice, TransferId(1), At(1));
  ASSERT_EQ(ears_.said.size(), 2u);
  EXPECT_EQ(ParseGrant(ears_.said[0].header(), ears_.said[0].body(), 8)->time_left, FromSeconds(4)) << "what is left by now";
  EXPECT_THAT(*ParseAck(ears_.said[1].header(), ears_.said[1].body()), ElementsAre(PieceRef{0, 1}));
  table_.Fail(TransferId(1), CancelledError("over"));
  ears_.said.clear();
  table_.OnAsk(kAlice, TransferId(1), At(2));
  EXPECT_EQ(Ends().size(), 1u);
}

TEST_F(Receiving, ManyAcksAreCutIntoFrames) {
  TransferLimits wide = Limits();
  wide.piece_bytes = 1;
  std::vector<std::byte> big(10'000);
  RegisteredMemory memory;
  ASSERT_TRUE(memory.Add(big).ok());
  ReceivingTable table(wide, memory, ears_, completions_);
  const Landing landing{big.data(), big.size()};
  ASSERT_TRUE(table.Expect(TransferId(1), kAlice, {&landing, 1}, At(5), kT0).ok());
  for (uint32_t piece = 0; piece + 1 < big.size(); ++piece) {
    ASSERT_NE(table.Locate(kAlice, Data(1, 0, piece), 1), nullptr);
    table.Landed(kAlice, Data(1, 0, piece));
  }
  table.FlushAcks();
  size_t acked = 0;
  for (const Said& s : ears_.Take(FrameType::kAck)) {
    EXPECT_LE(s.body().size(), 4096 * sizeof(PieceRef));
    acked += s.body().size() / sizeof(PieceRef);
  }
  EXPECT_EQ(acked, big.size() - 1);
  table.OnAsk(kAlice, TransferId(1), kT0);
  acked = 0;
  for (const Said& s : ears_.Take(FrameType::kAck)) acked += s.body().size() / sizeof(PieceRef);
  EXPECT_EQ(acked, big.size() - 1) << "said again to whoever asks";
}

/// Random frames of three workers against a model that only counts: what lands is what was new, and each transfer ends once.
TEST_F(Receiving, RandomFramesNeitherLandTwiceNorEndTwice) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    Random random(seed);
    CompletionQueue completions;
    Ears ears;
    ReceivingTable table(Limits(), memory_, ears, completions);
    std::map<uint64_t, int> ends;
    std::set<std::string> landed;
    for (uint64_t id = 1; id <= 4; ++id) ASSERT_TRUE(table.Expect(TransferId(id), WorkerId(1 + id % 2), Landings({20, 0, 16}, id * 100), At(double(id)), kT0).ok());
    for (int step = 0; step < 200; ++step) {
      const WorkerId from(static_cast<uint32_t>(1 + random.Below(3)));
      const FrameHeader h = Data(1 + random.Below(5), static_cast<uint32_t>(random.Below(random.Below(20) == 0 ? 5 : 3)), static_cast<uint32_t>(random.Below(random.Below(20) == 0 ? 4 : 2)));
      const size_t right = h.index == 0 ? (h.piece == 0 ? 16 : 4) : h.index == 2 ? 16 : 0;
      const size_t bytes = random.Below(30) == 0 ? random.Below(20) : right;
      std::byte* place = table.Locate(from, h, bytes);
      if (place == nullptr) {
        table.Drained(from, h);
      } else {
        ASSERT_TRUE(landed.insert(fmt::format("{}.{}.{}", h.transfer, h.index, h.piece)).second) << "seed " << seed << ": a piece had a place twice";
        table.Landed(from, h);
      }
      for (const Completion& c : std::exchange(completions, {})) {
        if (c.kind != CompletionKind::kSegmentLanded) {
          ASSERT_EQ(++ends[c.transfer.value], 1) << "seed " << seed;
        }
      }
    }
    table.Expire(At(10));
    for (const Completion& c : std::exchange(completions, {})) ASSERT_EQ(++ends[c.transfer.value], 1) << "seed " << seed;
    ASSERT_EQ(ends.size(), 4u) << "seed " << seed;
    ASSERT_EQ(table.active(), 0u);
  }
}

}  // namespace
}  // namespace baton
