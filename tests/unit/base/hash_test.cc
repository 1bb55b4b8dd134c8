// Every hash against values of independent implementations: what reaches disk, wire and keys may never change.
#include "base/hash.h"

#include <unistd.h>

#include "base/random.h"

namespace baton {
namespace {

std::vector<std::byte> Pattern(size_t size) {
  std::vector<std::byte> data(size);
  for (size_t i = 0; i < size; ++i) data[i] = static_cast<std::byte>(i * 7 + 3);
  return data;
}

TEST(HashVectors, Sha256) {  // FIPS 180 and Python's hashlib; the lengths stand around the padding's edges
  const std::vector<std::pair<size_t, std::string>> vectors = {
      {0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}, {55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"},
      {56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a"}, {63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34"},
      {64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"}, {65, "635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0"},
      {1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"}};
  for (const auto& [size, hex] : vectors) EXPECT_EQ(HexEncode(Sha256(AsBytes(std::string(size, 'a')))), hex) << size;
}

TEST(HashVectors, Sha256InPiecesIsTheSame) {
  const auto data = Pattern(1000);
  const Digest256 whole = Sha256(data);
  Random random(1);
  for (int round = 0; round < 50; ++round) {
    Sha256Hasher hasher;
    for (size_t at = 0; at < data.size();) {
      const size_t n = std::min<size_t>(random.Below(130), data.size() - at);
      hasher.Update(Bytes(data).subspan(at, n));
      at += n;
    }
    EXPECT_EQ(hasher.Finish(), whole);
  }
  Sha256Hasher nothing;
  EXPECT_EQ(nothing.Finish(), Sha256({}));
}

TEST(HashVectors, HmacSha256) {  // RFC 4231 and Python's hmac; the second key is longer than a block
  EXPECT_EQ(HexEncode(HmacSha256({}, {})), "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
  EXPECT_EQ(HexEncode(HmacSha256(AsBytes(std::string(131, 'k')), AsBytes("Test Using Larger Than Block-Size Key - Hash Key First"))),
            "70e4b005732fa7ff79392aa24fb240159b925dbc9f1398420c0f45e6763dcf14");
  EXPECT_EQ(HexEncode(HmacSha256(AsBytes(std::string(20, '\x0b')), AsBytes("Hi There"))), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
}

struct XxhVector {
  size_t size;
  uint64_t low, high, short_hash;
};

TEST(HashVectors, Xxh3OfEveryLengthClass) {  // xxHash's Python package; the algorithm changes at 3, 8, 16, 128, 240 and 1024
  const XxhVector vectors[] = {
      {0, 0x6001c324468d497full, 0x99aa06d3014798d8ull, 0x2d06800538d394c2ull},    {1, 0x13e608bc156defedull, 0x22bbb76b211a39baull, 0x13e608bc156defedull},
      {3, 0xa9088dda485b481cull, 0xce31763cbf8245a5ull, 0xa9088dda485b481cull},    {4, 0x788a609154b0fe20ull, 0x47197970590746b1ull, 0x6d9253b16c8b1ed3ull},
      {8, 0x3cd024e3d63a1588ull, 0xe3bc8a5f46171555ull, 0x60539db630471163ull},    {9, 0xeafab1c7f123109full, 0xc72c88247a9a56d7ull, 0xfeff668361d723a8ull},
      {16, 0x60d75c5e47d40a24ull, 0xce0b9647ab24f884ull, 0xb8c859b0f030b585ull},   {17, 0xeeed7654312a26d7ull, 0xbfd327edcc2fbd12ull, 0x714a04408e79b80full},
      {128, 0xc580008b6c92ac53ull, 0x1b1962a096bac78bull, 0x67425a03650261bfull},  {129, 0xbd91ce7ace4d385bull, 0x293e4968c4619023ull, 0xc664bf3311c6abc4ull},
      {240, 0x04e0b5f034bee80bull, 0xad46c1021b076bc7ull, 0x64556dc6b462a6cfull},  {241, 0x8beadd3a8874fe17ull, 0xac6c3492c3d6b45dull, 0x8beadd3a8874fe17ull},
      {512, 0xf58202b8d9019d1dull, 0x1af3d0367ba5a0c4ull, 0xf58202b8d9019d1dull},  {1024, 0x9b81661c641c72b1ull, 0x18bc0eaca9a33636ull, 0x9b81661c641c72b1ull},
      {1025, 0x806c2072ed713576ull, 0xbf447251cfa98d7cull, 0x806c2072ed713576ull}, {5000, 0x799aaddd7339581dull, 0xc98ae385d09887ccull, 0x799aaddd7339581dull}};
  for (const XxhVector& v : vectors) {
    const auto data = Pattern(v.size);
    EXPECT_EQ(Xxh3(data), (Digest128{v.low, v.high})) << v.size;
    EXPECT_EQ(Xxh3_64(data), v.short_hash) << v.size;
    std::vector<std::byte> copy(v.size);
    EXPECT_EQ(CopyWithXxh3(data, copy.data()), (Digest128{v.low, v.high})) << v.size;
    EXPECT_EQ(copy, data);
  }
  EXPECT_EQ(Xxh3_64(Pattern(100), 42), 0x223ce4409957d0ceull);
}

TEST(HashVectors, EveryFlippedBitShows) {
  for (const size_t size : {size_t{1}, size_t{16}, size_t{100}, size_t{300}}) {
    auto data = Pattern(size);
    const Digest128 before = Xxh3(data);
    const Digest256 strong = Sha256(data);
    for (size_t bit = 0; bit < size * 8; ++bit) {
      data[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
      EXPECT_FALSE(Xxh3(data) == before) << size << " bit " << bit;
      EXPECT_NE(Sha256(data), strong) << size << " bit " << bit;
      data[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    }
  }
}

class HashFile : public testing::Test {
 protected:
  HashFile() {
    std::string name = testing::TempDir() + "baton-hash-XXXXXX";
    close(mkstemp(name.data()));
    path_ = name;
  }
  ~HashFile() override { unlink(path_.c_str()); }
  std::string path_;
};

TEST_F(HashFile, IsThatOfTheContentAcrossReadPieces) {
  for (const size_t size : {size_t{0}, size_t{1}, (size_t{1} << 20) - 1, size_t{1} << 20, (size_t{1} << 20) + 1, size_t{3} << 20}) {
    const auto data = Pattern(size);
    std::ofstream(path_, std::ios::binary) << AsText(data);
    const auto hash = Sha256File(path_);
    ASSERT_TRUE(hash.ok()) << hash.status().ToString();
    EXPECT_EQ(*hash, Sha256(data)) << size;
  }
}

TEST_F(HashFile, WhatCannotBeReadIsNamed) {
  const auto missing = Sha256File(path_ + ".none");
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(missing.status().message(), testing::HasSubstr(path_ + ".none"));
  const auto folder = Sha256File(testing::TempDir());
  EXPECT_EQ(folder.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(folder.status().message(), testing::HasSubstr(testing::TempDir()));
}

}  // namespace
}  // namespace baton
