// The words of the transport, as bytes: golden frames, round trips, and what every cut and every changed field of one leads to.
#include "transport/frame.h"

#include "base/random.h"

namespace baton {
namespace {

/// A frame's two parts, as a wire hands them on.
struct Parts {
  FrameHeader header;
  std::string text;
  Bytes body() const { return AsBytes(text); }
};
Parts Split(const std::string& frame) {
  const auto header = ParseHeader(AsBytes(frame));
  EXPECT_TRUE(header.ok()) << header.status().ToString();
  return {*header, frame.substr(sizeof(FrameHeader))};
}

Grant GrantOf(std::vector<uint64_t> sizes, uint32_t piece_bytes = 4096) {
  return {.transfer = TransferId(7), .piece_bytes = piece_bytes, .time_left = std::chrono::seconds(3), .sizes = std::move(sizes)};
}

/// The body of a grant, by hand: what an honest GrantFrame would never write.
std::string GrantBody(int64_t left, std::vector<std::pair<uint32_t, uint64_t>> runs) {
  std::string body;
  AppendNumber(&body, left);
  for (const auto& [count, bytes] : runs) {
    AppendNumber(&body, count);
    AppendNumber(&body, bytes);
  }
  return body;
}

// Written down once from the layout in frame.h; a build that writes another byte cannot talk to its neighbour's release.
TEST(FrameVectors, EachWordsBytes) {
  const struct {
    std::string frame, hex;
  } cases[] = {
      {MakeFrame({.type = FrameType::kPing}, ""), "000000000a000000" "0000000000000000" "0000000000000000" "0000000000000000"},
      {MakeFrame({.type = FrameType::kAsk, .transfer = 0x0102030405060708}, ""), "0000000008000000" "0807060504030201" "0000000000000000" "0000000000000000"},
      {MakeFrame({.type = FrameType::kData, .flags = kChecksummed, .transfer = 1, .index = 2, .piece = 3, .checksum = 0xff}, "ab"),
       "0200000005020000" "0100000000000000" "0200000003000000" "ff00000000000000" "6162"},
      {GrantFrame({TransferId(9), 65536, std::chrono::nanoseconds(258), {5, 5, 6}}),
       "2000000004000000" "0900000000000000" "0300000000000100" "0000000000000000" "0201000000000000" "02000000" "0500000000000000" "01000000" "0600000000000000"},
      {EndFrame(TransferId(4), true, DeadlineError("x")), "0100000007010000" "0400000000000000" "0400000000000000" "0000000000000000" "78"},
      {EndFrame(TransferId(4), false, OkStatus()), "0000000007000000" "0400000000000000" "0000000000000000" "0000000000000000"},
      {AckFrame(TransferId(5), std::array<PieceRef, 2>{{{1, 0}, {1, 2}}}),
       "1000000006000000" "0500000000000000" "0000000000000000" "0000000000000000" "01000000" "00000000" "01000000" "02000000"},
  };
  for (const auto& c : cases) EXPECT_EQ(HexEncode(AsBytes(c.frame)), c.hex);
}

TEST(FrameHeaders, TheSizeIsTheBodysWhateverTheHeaderSaid) {
  const Parts parts = Split(MakeFrame({.body_bytes = 99, .type = FrameType::kAck, .transfer = 3}, "12345678"));
  EXPECT_EQ(parts.header.body_bytes, 8u);
  EXPECT_EQ(AsText(parts.body()), "12345678");
}

TEST(FrameHeaders, EveryTypeAndFlagThatExistsAndNoOther) {
  for (int type = 0; type < 256; ++type) {
    for (const int flags : {0, 1, 2, 3, 4, 5, 6, 7, 8, 64, 255}) {
      FrameHeader h{.type = static_cast<FrameType>(type), .flags = static_cast<uint8_t>(flags)};
      const bool known = type >= 1 && type <= 11 && flags <= 7;
      const auto parsed = ParseHeader(std::as_bytes(std::span(&h, 1)));
      ASSERT_EQ(parsed.ok(), known) << "type " << type << ", flags " << flags;
      if (known) continue;
      EXPECT_EQ(parsed.status().code(), StatusCode::kInvalid);
      EXPECT_THAT(parsed.status().message(), ::testing::HasSubstr("another program")) << "says what to look at";
    }
  }
}

TEST(FrameHeaders, TheReservedWordIsZero) {
  for (int bit = 0; bit < 16; ++bit) {
    FrameHeader h{.type = FrameType::kAsk, .zero = static_cast<uint16_t>(1 << bit)};
    EXPECT_FALSE(ParseHeader(std::as_bytes(std::span(&h, 1))).ok()) << "bit " << bit;
  }
}

TEST(FrameHeaders, ABodyIsAtMostAMebibyte) {
  for (const auto& [bytes, good] : {std::pair(0u, true), {1u << 20, true}, {(1u << 20) + 1, false}, {0xffffffffu, false}}) {
    FrameHeader h{.body_bytes = bytes, .type = FrameType::kData};
    const auto parsed = ParseHeader(std::as_bytes(std::span(&h, 1)));
    EXPECT_EQ(parsed.ok(), good) << bytes;
    if (!good) {
      EXPECT_EQ(parsed.status().message(), fmt::format("a frame of {} bytes; the limit is 1048576", bytes));
    }
  }
}

TEST(Grants, ComeBackAsTheyWent) {
  Random random(21);
  for (int i = 0; i < 300; ++i) {
    Grant grant = GrantOf({}, static_cast<uint32_t>(1 + random.Below(kMaxPieceBytes)));
    grant.transfer = TransferId(random.Next64());
    grant.time_left = Duration(static_cast<int64_t>(random.Next64() >> random.Below(64)));
    const size_t kinds = 1 + random.Below(3);  // few sizes: runs of equal ones
    std::vector<uint64_t> pool;
    for (size_t k = 0; k < kinds; ++k) pool.push_back(random.Below(4) == 0 ? 0 : random.Below(1_GiB));
    for (size_t n = 1 + random.Below(60); n > 0; --n) grant.sizes.push_back(pool[random.Below(kinds)]);
    const Parts parts = Split(GrantFrame(grant));
    const auto read = ParseGrant(parts.header, parts.body(), 60);
    ASSERT_TRUE(read.ok()) << read.status().ToString();
    EXPECT_EQ(read->transfer, grant.transfer);
    EXPECT_EQ(read->piece_bytes, grant.piece_bytes);
    EXPECT_EQ(read->time_left, grant.time_left);
    EXPECT_EQ(read->sizes, grant.sizes);
  }
}

/// 65,536 equal landings are one run: the largest transfer's grant is no longer than the smallest's.
TEST(Grants, EqualLandingsCostOneRun) {
  const std::string frame = GrantFrame(GrantOf(std::vector<uint64_t>(1 << 16, 4096)));
  EXPECT_EQ(frame.size(), sizeof(FrameHeader) + 8 + 12);
  const Parts parts = Split(frame);
  EXPECT_EQ(ParseGrant(parts.header, parts.body(), 1 << 16)->sizes.size(), size_t{1} << 16);
}

/// The worst that an honest receiver can announce, every landing another size, still fits a frame.
TEST(Grants, TheWorstOfTheLargestFitsAFrame) {
  std::vector<uint64_t> sizes(1 << 16);
  for (size_t i = 0; i < sizes.size(); ++i) sizes[i] = i;
  EXPECT_LE(GrantFrame(GrantOf(sizes)).size() - sizeof(FrameHeader), kMaxBodyBytes);
}

TEST(Grants, EveryCutIsRefused) {
  const std::string frame = GrantFrame(GrantOf({1, 2, 2, 3}));
  const Parts parts = Split(frame);
  ASSERT_TRUE(ParseGrant(parts.header, parts.body(), 10).ok());
  for (size_t n = 0; n < parts.body().size(); ++n) {
    const auto cut = ParseGrant(parts.header, parts.body().first(n), 10);
    ASSERT_FALSE(cut.ok()) << n << " of " << parts.body().size() << " bytes";
    EXPECT_EQ(cut.status().code(), StatusCode::kInvalid);
    EXPECT_THAT(cut.status().message(), ::testing::StartsWith("transfer 7: ")) << "which of them";
  }
  for (size_t more = 1; more < 12; ++more) {
    const std::string longer = std::string(AsText(parts.body())) + std::string(more, '\0');
    EXPECT_FALSE(ParseGrant(parts.header, AsBytes(longer), 10).ok()) << more << " bytes behind it";
  }
}

TEST(Grants, WhatNobodyMayAnnounce) {
  const struct {
    const char* what;
    FrameHeader header;
    std::string body;
    StatusCode code;
  } cases[] = {
      {"no landings", {.index = 0, .piece = 16}, GrantBody(1, {}), StatusCode::kInvalid},
      {"pieces of nothing", {.index = 1, .piece = 0}, GrantBody(1, {{1, 5}}), StatusCode::kInvalid},
      {"pieces beyond a frame", {.index = 1, .piece = (1 << 20) + 1}, GrantBody(1, {{1, 5}}), StatusCode::kInvalid},
      {"an empty run", {.index = 1, .piece = 16}, GrantBody(1, {{0, 5}, {1, 5}}), StatusCode::kInvalid},
      {"a run beyond the number", {.index = 2, .piece = 16}, GrantBody(1, {{1, 5}, {2, 5}}), StatusCode::kInvalid},
      {"a run that wraps", {.index = 2, .piece = 16}, GrantBody(1, {{1, 5}, {0xffffffff, 5}}), StatusCode::kInvalid},
      {"fewer than it says", {.index = 3, .piece = 16}, GrantBody(1, {{2, 5}}), StatusCode::kInvalid},
      {"a landing of more pieces than have numbers", {.index = 1, .piece = 1}, GrantBody(1, {{1, uint64_t{1} << 33}}), StatusCode::kInvalid},
      {"a landing of all there is", {.index = 1, .piece = 1 << 20}, GrantBody(1, {{1, UINT64_MAX}}), StatusCode::kInvalid},
      {"more landings than are allowed", {.index = 11, .piece = 16}, GrantBody(1, {{11, 5}}), StatusCode::kExhausted},
      {"more than memory", {.index = 0xffffffff, .piece = 16}, GrantBody(1, {{0xffffffff, 5}}), StatusCode::kExhausted},
  };
  for (const auto& c : cases) {
    const auto grant = ParseGrant(c.header, AsBytes(c.body), 10);
    ASSERT_FALSE(grant.ok()) << c.what;
    EXPECT_EQ(grant.status().code(), c.code) << c.what;
  }
}

/// Any 64 bits are a time: what is absurd is the sender's to clamp, not the parser's.
TEST(Grants, AnyTimeLeftIsRead) {
  for (const int64_t left : {INT64_MIN, int64_t{-1}, int64_t{0}, INT64_MAX}) {
    const auto grant = ParseGrant({.index = 1, .piece = 16}, AsBytes(GrantBody(left, {{1, 5}})), 10);
    ASSERT_TRUE(grant.ok());
    EXPECT_EQ(grant->time_left.count(), left);
  }
}

TEST(Ends, EveryCodeTravelsWithItsMessage) {
  for (int code = 1; code <= static_cast<int>(StatusCode::kInternal); ++code) {
    const Status status(static_cast<StatusCode>(code), "why " + std::to_string(code));
    for (const bool from_receiver : {false, true}) {
      const Parts parts = Split(EndFrame(TransferId(3), from_receiver, status));
      EXPECT_EQ((parts.header.flags & kFromReceiver) != 0, from_receiver);
      EXPECT_EQ(parts.header.transfer, 3u);
      EXPECT_EQ(ParseEnd(parts.header, parts.body()), status);
    }
  }
}

TEST(Ends, OkCarriesNothing) {
  const Parts parts = Split(EndFrame(TransferId(3), true, OkStatus()));
  EXPECT_TRUE(parts.body().empty());
  EXPECT_TRUE(ParseEnd(parts.header, parts.body()).ok());
  EXPECT_TRUE(ParseEnd({.index = 0}, AsBytes("a message nobody asked for")).ok());
}

TEST(Ends, MessagesAreCutAtBothEnds) {
  const std::string novel(100'000, 'n');
  const Parts parts = Split(EndFrame(TransferId(3), true, InvalidError("{}", novel)));
  EXPECT_EQ(parts.body().size(), 512u) << "what is sent";
  EXPECT_EQ(ParseEnd({.index = 1}, AsBytes(novel)).message().size(), 512u) << "what is believed of a longer one";
  const std::string zeros("a\0b", 3);
  EXPECT_EQ(ParseEnd({.index = 1}, AsBytes(zeros)).message(), zeros) << "any byte";
}

TEST(Ends, UnknownCodesAreInternal) {
  for (const uint32_t code : {10u, 77u, 255u, 256u, 0xffffffffu}) {
    const Status status = ParseEnd({.index = code}, AsBytes("later release"));
    EXPECT_EQ(status.code(), StatusCode::kInternal) << code;
    EXPECT_EQ(status.message(), "later release");
  }
}

TEST(Acks, PairsComeBackAndOddEndsDoNot) {
  Random random(5);
  for (size_t n : {0u, 1u, 2u, 7u, 4096u}) {
    std::vector<PieceRef> pieces(n);
    for (PieceRef& ref : pieces) ref = {static_cast<uint32_t>(random.Next64()), static_cast<uint32_t>(random.Next64())};
    const Parts parts = Split(AckFrame(TransferId(8), pieces));
    const auto read = ParseAck(parts.header, parts.body());
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(*read, pieces);
  }
  for (size_t n = 0; n < 64; ++n) {
    const std::string body(n, 'x');
    EXPECT_EQ(ParseAck({.type = FrameType::kAck, .transfer = 8}, AsBytes(body)).ok(), n % 8 == 0) << n;
  }
}

/// How a landing is cut: the pieces lie one behind the other, none is empty but that of an empty landing, and they are all of it.
TEST(Pieces, TileTheLandingExactly) {
  for (const uint64_t piece : {uint64_t{1}, uint64_t{7}, uint64_t{4096}, uint64_t{kMaxPieceBytes}}) {
    for (const uint64_t bytes : {uint64_t{0}, uint64_t{1}, piece - 1, piece, piece + 1, 3 * piece, 3 * piece + 1, 5 * piece - 1}) {
      const uint64_t count = PieceCount(bytes, piece);
      ASSERT_GE(count, 1u);
      uint64_t sum = 0;
      for (uint32_t i = 0; i < count; ++i) {
        const size_t size = PieceSize(bytes, piece, i);
        EXPECT_LE(size, piece);
        EXPECT_TRUE(size > 0 || bytes == 0) << bytes << " in pieces of " << piece;
        EXPECT_TRUE(size == piece || i + 1 == count) << "only the last is shorter";
        sum += size;
      }
      EXPECT_EQ(sum, bytes) << "in pieces of " << piece;
    }
  }
}

/// One field changed in an otherwise good frame: it is refused or read as what it now says, and never as more than there is.
TEST(Mutations, OneFlippedBitNeverReadsBeyondTheFrame) {
  const std::string frames[] = {GrantFrame(GrantOf({100, 100, 5000})), EndFrame(TransferId(7), false, CancelledError("stop")),
                                AckFrame(TransferId(7), std::array<PieceRef, 3>{{{0, 0}, {1, 1}, {2, 2}}})};
  for (const std::string& good : frames) {
    for (size_t bit = 0; bit < good.size() * 8; ++bit) {
      std::string frame = good;
      frame[bit / 8] = static_cast<char>(frame[bit / 8] ^ (1 << (bit % 8)));
      // On the heap and exactly as long, so that a sanitizer sees a read behind it.
      const std::vector<std::byte> exact(AsBytes(frame).begin(), AsBytes(frame).end());
      const auto header = ParseHeader(exact);
      if (!header.ok()) continue;
      const Bytes body = Bytes(exact).subspan(sizeof(FrameHeader));
      if (header->type == FrameType::kGrant) {
        const auto grant = ParseGrant(*header, body, 100);
        if (grant.ok()) {
          EXPECT_EQ(grant->sizes.size(), header->index);
        }
      }
      if (header->type == FrameType::kAck) {
        if (const auto ack = ParseAck(*header, body); ack.ok()) {
          EXPECT_EQ(ack->size(), body.size() / 8);
        }
      }
      if (header->type == FrameType::kEnd) {
        EXPECT_LE(ParseEnd(*header, body).message().size(), body.size());
      }
    }
  }
}

}  // namespace
}  // namespace baton
