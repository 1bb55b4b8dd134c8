#include "base/clock.h"
#include "base/hash.h"
#include "base/mailbox.h"
#include "base/metrics.h"
#include "base/random.h"
#include "base/status.h"

namespace baton {
namespace {

TEST(Status, MessagesCarryTheirContext) {
  const Status s = NotFoundError("no model at {}", "/x").WithContext("load");
  EXPECT_EQ(s.ToString(), "not_found: load: no model at /x");
  EXPECT_TRUE(OkStatus().WithContext("load").ok());
}

TEST(Status, MacrosPassErrorsUp) {
  auto inner = [](bool fail) -> Result<int> {
    if (fail) return InvalidError("bad");
    return 3;
  };
  auto outer = [&](bool fail) -> Result<int> {
    ASSIGN_OR_RETURN(const int value, inner(fail));
    return value + 1;
  };
  EXPECT_EQ(*outer(false), 4);
  EXPECT_EQ(outer(true).status().code(), StatusCode::kInvalid);
}

TEST(Hash, KnownVectors) {
  EXPECT_EQ(HexEncode(Sha256(AsBytes("abc"))), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  // RFC 4231 test case 2
  EXPECT_EQ(HexEncode(HmacSha256(AsBytes("Jefe"), AsBytes("what do ya want for nothing?"))),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  EXPECT_EQ(Sha256File("/nonexistent/x").status().code(), StatusCode::kNotFound);
}

TEST(Random, PhiloxKnownVectors) {  // from the Random123 distribution, kat_vectors
  EXPECT_EQ(Philox4x32(0, 0, 0), (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32(~0ull, ~0ull, ~0ull), (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Random, UniformIsAFunctionOfSeedAndPosition) {
  EXPECT_EQ(UniformAt(1, 2), UniformAt(1, 2));
  EXPECT_NE(UniformAt(1, 2), UniformAt(1, 3));
  double sum = 0;
  for (uint64_t i = 0; i < 10000; ++i) sum += UniformAt(7, i);
  EXPECT_NEAR(sum / 10000, 0.5, 0.02);
}

TEST(Mailbox, BoundedOrderedAndWakesOnceABatch) {
  int wakes = 0;
  Mailbox<int> box(3, [&] { ++wakes; });
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(box.Push(int{i}));
  EXPECT_FALSE(box.Push(9));
  EXPECT_EQ(wakes, 1);
  EXPECT_EQ(box.Drain(), (std::vector<int>{0, 1, 2}));
  EXPECT_TRUE(box.Push(4));
  EXPECT_EQ(wakes, 2);
  box.Close();
  EXPECT_FALSE(box.Push(5));
}

TEST(Metrics, TextHasNamesLabelsAndValues) {
  Metrics metrics;
  metrics.Counter("baton_x_total", "help", {{"a", "b"}}).Increment(2);
  metrics.Counter("baton_x_total", "help", {{"a", "b"}}).Increment();
  EXPECT_THAT(metrics.Text(), testing::HasSubstr("baton_x_total{a=\"b\"} 3"));
}

TEST(Bytes, CheckedArithmetic) {
  uint64_t out;
  EXPECT_FALSE(CheckedMul<uint64_t>(1ull << 40, 1ull << 40, &out));
  EXPECT_TRUE(CheckedAdd<uint64_t>(1, 2, &out));
  EXPECT_EQ(out, 3u);
}

TEST(Hash, CopyingAndHashingAtOnceIsBoth) {
  Random random(5);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{239}, size_t{32768}, size_t{32769}, size_t{1 << 20}}) {
    std::vector<std::byte> from(size), to(size);
    for (std::byte& b : from) b = static_cast<std::byte>(random.Next64());
    EXPECT_EQ(CopyWithXxh3(from, to.data()), Xxh3(from)) << size;
    EXPECT_EQ(from, to);
  }
}

}  // namespace
}  // namespace baton
