// The sending end of transfers by itself: what is held until it is asked for, which piece goes next, what an acknowledgement
// settles, and what a peer that says the wrong things can and cannot do.
#include "base/random.h"
#include "table_support.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint32_t kPiece = 16;

class Sending : public ::testing::Test {
 protected:
  static TransferLimits Limits() {
    TransferLimits limits;
    limits.piece_bytes = kPiece;
    limits.max_transfers = 4;
    limits.max_landings = 8;
    limits.max_landings_in_all = 12;
    limits.hold = std::chrono::seconds(10);
    return limits;
  }
  Status Push(uint64_t id, const std::vector<std::pair<uint32_t, size_t>>& segments, WorkerId to = kBob) {
    std::vector<Segment> out;
    for (const auto& [index, bytes] : segments) out.push_back({index, source_.data() + index * 256, bytes});
    return table_.Push(TransferId(id), to, out, kT0);
  }
  void GrantTo(uint64_t id, std::vector<uint64_t> sizes, WorkerId peer = kBob, double left_s = 5) {
    const std::string frame = GrantFrame({TransferId(id), kPiece, FromSeconds(left_s), std::move(sizes)});
    table_.OnGrant(peer, *ParseHeader(AsBytes(frame)), AsBytes(frame).subspan(sizeof(FrameHeader)), kT0);
  }
  void Ack(uint64_t id, const std::vector<PieceRef>& refs, WorkerId peer = kBob) {
    const std::string frame = AckFrame(TransferId(id), refs);
    EXPECT_TRUE(table_.OnAck(peer, *ParseHeader(AsBytes(frame)), AsBytes(frame).subspan(sizeof(FrameHeader))).ok());
  }
  /// The next pieces for a peer, as "transfer:index.piece", at most `most`.
  std::vector<std::string> Next(size_t most = 100, uint32_t path = 0, WorkerId peer = kBob) {
    std::vector<std::string> out;
    while (out.size() < most) {
      const auto piece = table_.Next(peer, path);
      if (!piece) break;
      out.push_back(fmt::format("{}:{}.{}", piece->header.transfer, piece->header.index, piece->header.piece));
    }
    return out;
  }
  std::vector<Status> Ends() {
    std::vector<Status> out;
    for (const Said& s : ears_.Take(FrameType::kEnd)) {
      EXPECT_EQ(s.header().flags & kFromReceiver, 0) << "this end speaks as the sender";
      out.push_back(ParseEnd(s.header(), s.body()));
    }
    return out;
  }

  std::array<std::byte, 4096> source_{};
  Ears ears_;
  CompletionQueue completions_;
  SendingTable table_{Limits(), ears_, ears_, completions_};
};

TEST_F(Sending, NothingGoesBeforeItIsAskedFor) {
  ASSERT_TRUE(Push(1, {{1, 20}, {0, 5}}).ok());
  const auto asks = ears_.Take(FrameType::kAsk);
  ASSERT_EQ(asks.size(), 1u) << "it says that it waits, once";
  EXPECT_EQ(asks[0].header().transfer, 1u);
  EXPECT_FALSE(table_.HasNext(kBob));
  EXPECT_THAT(Next(), IsEmpty());
  GrantTo(1, {5, 20});
  EXPECT_TRUE(table_.HasNext(kBob));
  EXPECT_THAT(Next(), ElementsAre("1:1.0", "1:1.1", "1:0.0")) << "in the order in which it was pushed";
  EXPECT_FALSE(table_.HasNext(kBob));
}

TEST_F(Sending, PiecesPointIntoTheirSegments) {
  GrantTo(1, {40, 0});
  ASSERT_TRUE(Push(1, {{0, 40}, {1, 0}}).ok());
  for (uint32_t piece = 0; piece < 3; ++piece) {
    const auto out = table_.Next(kBob, 0);
    ASSERT_TRUE(out.has_value());
    EXPECT_EQ(out->data, source_.data() + piece * kPiece);
    EXPECT_EQ(out->header.body_bytes, piece < 2 ? 16u : 8u);
    EXPECT_EQ(out->header.type, FrameType::kData);
  }
  EXPECT_EQ(table_.Next(kBob, 0)->header.body_bytes, 0u) << "an empty segment is one empty piece";
  EXPECT_EQ(table_.sent_bytes(), 40u);
}

TEST_F(Sending, OnlyAcknowledgedSegmentsAreSent) {
  GrantTo(1, {40, 5});
  ASSERT_TRUE(Push(1, {{0, 40}, {1, 5}}).ok());
  Next();
  Ack(1, {{0, 2}, {1, 0}});
  EXPECT_THAT(Told(completions_), ElementsAre("sent 1.1"));
  Ack(1, {{0, 0}, {0, 0}, {0, 2}});
  EXPECT_THAT(Told(completions_), IsEmpty()) << "a piece counts once, however often it is said";
  Ack(1, {{0, 1}});
  EXPECT_THAT(Told(completions_), ElementsAre("sent 1.0"));
  EXPECT_EQ(table_.active(), 0u);
  EXPECT_EQ(Push(1, {{0, 40}}).message(), "transfer 1: all its segments have been sent");
}

TEST_F(Sending, AcksForWhatIsNotThereAreNothing) {
  GrantTo(1, {40, 40, 7});
  ASSERT_TRUE(Push(1, {{0, 40}}).ok());
  Next(1);
  Ack(1, {{3, 0}, {0xffffffff, 0}, {0, 3}, {0, 0xffffffff}, {1, 0}, {2, 0}});
  Ack(2, {{0, 0}});
  Ack(1, {{0, 0}, {0, 1}, {0, 2}}, kAlice);
  EXPECT_THAT(Told(completions_), IsEmpty()) << "no such landing, no such piece, not pushed, unknown, somebody else's word";
  ASSERT_TRUE(Push(1, {{1, 40}}).ok()) << "an early ack of it was no promise";
  EXPECT_THAT(Next(), ElementsAre("1:0.1", "1:0.2", "1:1.0", "1:1.1", "1:1.2"));
  EXPECT_EQ(table_.OnAck(kBob, {.type = FrameType::kAck, .transfer = 1}, AsBytes("1234567")).code(), StatusCode::kInvalid);
}

/// A receiver that acknowledges what has not been put on the wire yet only fools itself: the piece is not sent any more.
TEST_F(Sending, AnAckAheadOfItsPieceTakesItOffTheQueue) {
  GrantTo(1, {40});
  ASSERT_TRUE(Push(1, {{0, 40}}).ok());
  Ack(1, {{0, 1}});
  EXPECT_THAT(Next(), ElementsAre("1:0.0", "1:0.2"));
  EXPECT_EQ(table_.sent_bytes(), 24u);
}

TEST_F(Sending, AGrantSaidTwiceChangesNothing) {
  GrantTo(1, {40});
  ASSERT_TRUE(Push(1, {{0, 40}}).ok());
  EXPECT_THAT(Next(2), ElementsAre("1:0.0", "1:0.1"));
  GrantTo(1, {40});
  GrantTo(1, {7, 7, 7}) /* another agreement about the same transfer */;
  EXPECT_THAT(Next(), ElementsAre("1:0.2"));
  Ack(1, {{0, 0}, {0, 1}, {0, 2}});
  EXPECT_THAT(Told(completions_), ElementsAre("sent 1.0"));
  ears_.said.clear();
  GrantTo(1, {40});
  EXPECT_THAT(ears_.said, IsEmpty()) << "after a good end, too: the receiver has all";
}

TEST_F(Sending, AGrantFromAnotherWorkerIsRefusedAndHarmsNobody) {
  ASSERT_TRUE(Push(1, {{0, 5}}).ok());
  ears_.said.clear();
  GrantTo(1, {5}, kAlice);
  ASSERT_EQ(ears_.said.size(), 1u);
  EXPECT_EQ(ears_.said[0].to, kAlice);
  EXPECT_THAT(Ends()[0].message(), HasSubstr("goes to another worker"));
  EXPECT_THAT(Told(completions_), IsEmpty());
  GrantTo(1, {5});
  EXPECT_THAT(Next(), ElementsAre("1:0.0"));
}

/// Whatever a stranger says of somebody else's transfer before it begins, or while it lasts, the two are on their own.
TEST_F(Sending, AnotherWorkersEndIsNothing) {
  table_.OnEnd(kAlice, TransferId(1), CancelledError("Alice"));
  ASSERT_TRUE(Push(1, {{0, 5}}).ok());
  table_.OnEnd(kAlice, TransferId(1), OkStatus());
  GrantTo(1, {5, 5});
  EXPECT_THAT(Next(), ElementsAre("1:0.0"));
  table_.OnEnd(kBob, TransferId(1), DeadlineError("Bob"));
  EXPECT_THAT(Told(completions_), ElementsAre("failed 1 deadline"));
  EXPECT_EQ(Push(1, {{1, 5}}), DeadlineError("Bob")) << "how it ended with the one that it goes to";
  ears_.said.clear();
  GrantTo(1, {5, 5});
  EXPECT_EQ(Ends(), std::vector<Status>{DeadlineError("Bob")}) << "and it does not begin again";
  EXPECT_EQ(table_.active(), 0u);
}

TEST_F(Sending, AHeldPushThatDoesNotFitItsGrantFailsBothEnds) {
  const struct {
    std::vector<std::pair<uint32_t, size_t>> pushed;
    std::vector<uint64_t> granted;
    const char* says;
  } cases[] = {
      {{{0, 5}}, {6}, "segment 0 has 5 bytes; worker 2 expects 6"},
      {{{0, 5}, {3, 1}}, {5, 1, 1}, "segment 3 does not exist; worker 2 expects 3"},
      {{{7, 1}}, {5}, "segment 7 does not exist; worker 2 expects 1"},
  };
  uint64_t id = 0;
  for (const auto& c : cases) {
    ASSERT_TRUE(Push(++id, c.pushed).ok()) << "nobody knows yet";
    ears_.said.clear();
    GrantTo(id, c.granted);
    const auto ends = Ends();
    ASSERT_EQ(ends.size(), 1u);
    EXPECT_EQ(ends[0].code(), StatusCode::kInvalid);
    EXPECT_THAT(ends[0].message(), HasSubstr(c.says));
    EXPECT_THAT(Told(completions_), ElementsAre(fmt::format("failed {} invalid", id)));
    EXPECT_THAT(Next(), IsEmpty());
  }
  EXPECT_EQ(table_.next_deadline(), Instant::max());
}

TEST_F(Sending, AWrongPushAfterTheGrantIsRefusedAndTheRestGoesOn) {
  GrantTo(1, {40, 5});
  EXPECT_THAT(Push(1, {{0, 40}, {1, 6}}).message(), HasSubstr("segment 1 has 6 bytes"));
  EXPECT_THAT(Push(1, {{2, 1}}).message(), HasSubstr("segment 2 does not exist"));
  EXPECT_THAT(Push(1, {{0, 40}, {0, 40}}).message(), HasSubstr("segment 0 is pushed twice"));
  EXPECT_THAT(Push(1, {{0, 40}}, kAlice).message(), HasSubstr("goes to worker 2, not 1"));
  EXPECT_THAT(Next(), IsEmpty()) << "nothing of a refused call was taken";
  ASSERT_TRUE(Push(1, {{1, 5}}).ok());
  EXPECT_THAT(Push(1, {{1, 5}}).message(), HasSubstr("segment 1 is pushed twice"));
  ASSERT_TRUE(Push(1, {{0, 40}}).ok());
  EXPECT_EQ(Next().size(), 4u);
}

TEST_F(Sending, HeldPushesAreBoundedInNumberAndTime) {
  EXPECT_EQ(Push(1, {{0, 1}}, WorkerId(0)).code(), StatusCode::kInvalid);
  std::vector<std::pair<uint32_t, size_t>> eight;
  for (uint32_t i = 0; i < 8; ++i) eight.push_back({i, 1});
  ASSERT_TRUE(Push(1, eight).ok());
  EXPECT_EQ(Push(1, {{8, 1}}).code(), StatusCode::kExhausted) << "no transfer has so many landings";
  EXPECT_EQ(Push(1, {{3, 1}}).code(), StatusCode::kExhausted);
  for (uint64_t id = 2; id <= 4; ++id) ASSERT_TRUE(Push(id, {{0, 1}}).ok());
  EXPECT_EQ(Push(5, {{0, 1}}).code(), StatusCode::kExhausted);
  EXPECT_EQ(table_.next_deadline(), At(10));
  table_.Expire(At(9.9));
  EXPECT_EQ(table_.active(), 4u);
  ears_.said.clear();
  table_.Expire(At(10));
  EXPECT_EQ(table_.active(), 0u);
  EXPECT_EQ(completions_.size(), 4u);
  EXPECT_EQ(completions_[0].status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(completions_[0].status.message(), HasSubstr("worker 2 did not ask for it within 10.0 s"));
  EXPECT_EQ(Ends().size(), 4u) << "the receiver need not wait for what will not come";
}

TEST_F(Sending, AfterTheGrantTheReceiversDeadlineCounts) {
  ASSERT_TRUE(Push(1, {{0, 40}}).ok());
  GrantTo(1, {40}, kBob, 2);
  EXPECT_EQ(table_.next_deadline(), At(2.1)) << "and a little, for its own word";
  GrantTo(2, {1}, kBob, -1e9);
  EXPECT_EQ(table_.next_deadline(), At(0.1)) << "a past one is now";
  table_.Expire(At(0.1));
  EXPECT_THAT(Told(completions_), IsEmpty()) << "the caller never heard of transfer 2";
  GrantTo(3, {1}, kBob, 3e9);
  table_.Expire(At(2.1));
  EXPECT_THAT(Told(completions_), ElementsAre("failed 1 deadline"));
  EXPECT_EQ(table_.next_deadline(), At(86400.1)) << "nobody waits for a century";
}

TEST_F(Sending, WhatAPeerAnnouncesIsBounded) {
  for (uint64_t id = 1; id <= 20; ++id) GrantTo(id, {1, 1, 1});
  EXPECT_EQ(table_.active(), 4u);
  table_.FailPeer(kBob, UnavailableError("gone"));
  EXPECT_THAT(Told(completions_), IsEmpty()) << "announced, never pushed: nobody here waits for them";
  ears_.said.clear();
  GrantTo(30, std::vector<uint64_t>(8, 1));
  GrantTo(31, std::vector<uint64_t>(5, 1));
  const auto ends = Ends();
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].code(), StatusCode::kExhausted);
  GrantTo(33, {uint64_t{1} << 31});
  EXPECT_THAT(Ends().back().message(), HasSubstr("pieces or more; send in several transfers")) << "2^27 pieces of 16 bytes";
  EXPECT_EQ(table_.active(), 1u);
  GrantTo(32, std::vector<uint64_t>(4, 1));
  EXPECT_EQ(table_.active(), 2u) << "landings in all: those of the refused ones were given back";
}

/// Turns are of bytes: one transfer's small pieces together have no more than another's big one.
TEST_F(Sending, TransfersToOnePeerTakeFairTurns) {
  GrantTo(1, {160});
  GrantTo(2, {1, 1, 1, 1});
  GrantTo(3, {160});
  ASSERT_TRUE(Push(1, {{0, 160}}).ok());
  ASSERT_TRUE(Push(2, {{0, 1}, {1, 1}, {2, 1}, {3, 1}}).ok());
  ASSERT_TRUE(Push(3, {{0, 160}}).ok());
  std::map<char, int> pieces;
  const auto order = Next();
  for (size_t i = 0; i < 7; ++i) ++pieces[order[i][0]];
  EXPECT_GE(pieces['1'], 2);
  EXPECT_GE(pieces['2'], 2) << "the small one is not behind the big ones";
  EXPECT_GE(pieces['3'], 2);
  EXPECT_EQ(order.size(), 24u);
}

TEST_F(Sending, PeersDoNotShareTurns) {
  GrantTo(1, {160});
  GrantTo(2, {5}, kAlice);
  ASSERT_TRUE(Push(1, {{0, 160}}).ok());
  ASSERT_TRUE(Push(2, {{0, 5}}, kAlice).ok());
  EXPECT_THAT(Next(100, 0, kAlice), ElementsAre("2:0.0"));
  EXPECT_FALSE(table_.HasNext(kAlice));
  table_.FailPeer(kAlice, UnavailableError("gone"));
  EXPECT_THAT(Told(completions_), ElementsAre("failed 2 unavailable"));
  EXPECT_EQ(Next().size(), 10u);
  EXPECT_TRUE(table_.Busy(kBob));
  EXPECT_FALSE(table_.Busy(kAlice));
}

TEST_F(Sending, ALostPathsPiecesGoAgainAndNoOthers) {
  GrantTo(1, {64});
  ASSERT_TRUE(Push(1, {{0, 64}}).ok());
  EXPECT_THAT(Next(2, 0), ElementsAre("1:0.0", "1:0.1"));
  EXPECT_THAT(Next(2, 1), ElementsAre("1:0.2", "1:0.3"));
  Ack(1, {{0, 0}});
  table_.PathLost(kBob, 0);
  table_.PathLost(kAlice, 1);
  EXPECT_THAT(Next(100, 1), ElementsAre("1:0.1")) << "0.0 had landed, 0.2 and 0.3 are on the other path";
  table_.PathLost(kBob, 0);
  EXPECT_THAT(Next(), IsEmpty()) << "nothing is on it any more";
  Ack(1, {{0, 1}, {0, 2}, {0, 3}});
  EXPECT_THAT(Told(completions_), ElementsAre("sent 1.0"));
}

/// A medium that takes references back takes all of the transfer's: what else was under way never arrives, and nobody would say so.
TEST_F(Sending, WhatIsTakenBackWithASegmentGoesAgain) {
  for (const bool by_reference : {false, true}) {
    const uint64_t id = by_reference ? 2 : 1;
    ears_.by_reference = by_reference;
    GrantTo(id, {16, 32, 16});
    ASSERT_TRUE(Push(id, {{0, 16}, {1, 32}, {2, 16}}).ok());
    EXPECT_EQ(Next(1, 0).size(), 1u);
    EXPECT_EQ(Next(2, 1).size(), 2u);
    table_.PathLost(kBob, 0);  // segment 0 is queued again, though it got through
    ears_.detached.clear();
    Ack(id, {{0, 0}});
    EXPECT_THAT(ears_.detached, ElementsAre(TransferId(id))) << "a copy of it may be under way: its bytes are the caller's from now on";
    EXPECT_THAT(Told(completions_), ElementsAre(fmt::format("sent {}.0", id)));
    const auto next = Next(100, 1);
    if (by_reference) {
      EXPECT_THAT(next, ElementsAre("2:2.0", "2:1.0", "2:1.1"));
    }
    if (!by_reference) {
      EXPECT_THAT(next, ElementsAre("1:2.0"));
    }
    Ack(id, {{1, 0}, {1, 1}, {2, 0}});
    EXPECT_EQ(Told(completions_).size(), 2u);
    EXPECT_FALSE(table_.Has(TransferId(id)));
  }
}

TEST_F(Sending, CancelIsRememberedWhicheverCameFirst) {
  table_.Cancel(TransferId(1));
  EXPECT_THAT(Told(completions_), IsEmpty()) << "nobody had asked for it";
  EXPECT_EQ(Push(1, {{0, 1}}).code(), StatusCode::kCancelled);
  EXPECT_EQ(Push(1, {{0, 1}}, kAlice).code(), StatusCode::kCancelled) << "whoever it was to go to";
  GrantTo(1, {1});
  EXPECT_EQ(Ends().size(), 1u) << "and whoever asks for it is told";
  ASSERT_TRUE(Push(2, {{0, 1}}).ok());
  table_.Cancel(TransferId(2));
  table_.Cancel(TransferId(2));
  EXPECT_THAT(Told(completions_), ElementsAre("failed 2 cancelled"));
  EXPECT_EQ(Ends().size(), 1u);
}

TEST_F(Sending, TheReceiversGoodEndIsTheLastAck) {
  GrantTo(1, {5, 5});
  ASSERT_TRUE(Push(1, {{0, 5}, {1, 5}}).ok());
  Next();
  Ack(1, {{1, 0}});
  Told(completions_);
  table_.OnEnd(kBob, TransferId(1), OkStatus());
  EXPECT_THAT(Told(completions_), ElementsAre("sent 1.0")) << "only what had not been told";
  EXPECT_EQ(table_.active(), 0u);
}

/// Many lives of many transfers in one table: what has ended leaves nothing behind, neither deadlines nor turns nor landings.
TEST_F(Sending, NothingPilesUp) {
  Random random(3);
  for (uint64_t id = 1; id <= 3000; ++id) {
    const WorkerId peer(static_cast<uint32_t>(2 + random.Below(500)));
    if (random.Below(2) == 0) GrantTo(id, {20}, peer);
    (void)Push(id, {{0, 20}}, peer);
    GrantTo(id, {20}, peer);
    if (random.Below(2) == 0) Next(random.Below(3), 0, peer);
    switch (random.Below(5)) {
      case 0: Ack(id, {{0, 0}, {0, 1}}, peer); break;
      case 1: table_.OnEnd(peer, TransferId(id), OkStatus()); break;
      case 2: table_.OnEnd(peer, TransferId(id), InvalidError("no")); break;
      case 3: table_.Cancel(TransferId(id)); break;
      case 4: table_.FailPeer(peer, UnavailableError("gone")); break;
    }
    ASSERT_EQ(table_.active(), 0u) << id;
    ASSERT_EQ(table_.next_deadline(), Instant::max()) << id;
    if (id % 7 == 0) Next(10, 0, peer);
  }
  for (uint32_t peer = 2; peer < 502; ++peer) Next(1, 0, WorkerId(peer));
  EXPECT_THAT(table_.Describe(), ::testing::StartsWith("ended "));
}

}  // namespace
}  // namespace baton
