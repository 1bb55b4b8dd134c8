// Each codec: what goes in comes out, what is damaged or hostile is refused.
#include "kvstore/codec.h"

#include <cstring>

#include "base/random.h"

namespace baton {
namespace {

/// 16-bit floats near each other, as K and V are.
std::vector<std::byte> KvLike(size_t bytes, uint64_t seed) {
  Random random(seed);
  std::vector<std::byte> out(bytes);
  for (size_t i = 0; i < bytes; ++i) out[i] = static_cast<std::byte>(i % 2 == 0 ? random.Next64() : 0x38 + random.Below(6));
  return out;
}

class Codecs : public ::testing::TestWithParam<Codec> {};

TEST_P(Codecs, GiveBackWhatTheyTook) {
  for (const size_t bytes : {size_t{1}, size_t{4096}, size_t{4097}, size_t{8193}, size_t{100000}, size_t{100001}}) {
    for (const bool zeros : {true, false}) {
      const std::vector<std::byte> data = zeros ? std::vector<std::byte>(bytes) : KvLike(bytes, bytes);
      const std::vector<std::byte> packed = Compress(GetParam(), data);
      if (packed.empty()) continue;  // would save no page
      ASSERT_LE(packed.size() + 4096, bytes);
      std::vector<std::byte> back(bytes, std::byte{7});
      ASSERT_TRUE(Decompress(GetParam(), packed, back));
      ASSERT_EQ(back, data);
      back.resize(bytes + 1);
      EXPECT_FALSE(Decompress(GetParam(), packed, back)) << "another length";
      back.resize(bytes - 1);
      EXPECT_FALSE(Decompress(GetParam(), packed, back));
    }
  }
}

TEST_P(Codecs, NoiseIsStoredAsItIs) {
  Random random(1);
  std::vector<std::byte> noise(50000);
  for (std::byte& b : noise) b = static_cast<std::byte>(random.Next64());
  EXPECT_TRUE(Compress(GetParam(), noise).empty());
}

TEST_P(Codecs, SurviveHostileInput) {
  const std::vector<std::byte> data(60000);
  std::vector<std::byte> packed = Compress(GetParam(), data), back(60000);
  if (packed.empty()) return;
  Random random(2);
  for (int i = 0; i < 2000; ++i) {
    std::vector<std::byte> bad = packed;
    if (random.Below(3) == 0) bad.resize(random.Below(bad.size() + 1));
    for (uint64_t n = random.Below(5); n > 0 && !bad.empty(); --n) bad[random.Below(bad.size())] = static_cast<std::byte>(random.Next64());
    (void)Decompress(GetParam(), bad, back);  // true or false: the digest decides, this must only not read or write elsewhere
  }
}
INSTANTIATE_TEST_SUITE_P(All, Codecs, ::testing::Values(Codec::kNone, Codec::kZstd, Codec::kLz4, Codec::kPlanes));

TEST(CodecNames, AreKnown) {
  for (const char* name : {"none", "zstd", "lz4", "planes"}) EXPECT_EQ(CodecName(*ParseCodec(name)), name);
  EXPECT_EQ(ParseCodec("gzip").status().code(), StatusCode::kInvalid);
  EXPECT_EQ(CodecName(static_cast<Codec>(9)), "unknown");
  std::vector<std::byte> out(8);
  EXPECT_FALSE(Decompress(static_cast<Codec>(9), out, out));
}

TEST(CodecPlanes, PutExponentsTogether) {
  const std::vector<std::byte> data = KvLike(1 << 20, 5);
  const size_t planes = Compress(Codec::kPlanes, data).size(), plain = Compress(Codec::kZstd, data).size();
  ASSERT_GT(planes, 0u);
  EXPECT_LT(planes, 0.75 * static_cast<double>(data.size()));
  EXPECT_TRUE(plain == 0 || planes <= plain);
}

}  // namespace
}  // namespace baton
