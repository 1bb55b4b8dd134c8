// Where things lie in a KV block, and the text that names a layout in every block key.
#include "model/kv_layout.h"

#include <set>

namespace baton {
namespace {

std::vector<KvLayout> Layouts() {
  std::vector<KvLayout> layouts;
  for (const KvDtype dtype : {KvDtype::kF32, KvDtype::kF16, KvDtype::kBf16, KvDtype::kInt8}) {
    for (const uint32_t heads : {1u, 3u, 8u}) {
      for (const uint32_t dim : {1u, 6u, 64u, 80u}) {
        for (const uint32_t tokens : {1u, 7u, 64u}) layouts.push_back({2, heads, dim, tokens, dtype});
      }
    }
  }
  return layouts;
}

/// Every vector and every scale has bytes of its own, all within the part; parts follow each other without a gap.
TEST(KvLayout, NothingOverlapsAndNothingLeavesItsPart) {
  for (const KvLayout& l : Layouts()) {
    SCOPED_TRACE(l.ToString());
    std::vector<uint8_t> used(l.PartBytes(), 0);
    const auto take = [&](size_t offset, size_t bytes) {
      ASSERT_LE(offset + bytes, used.size());
      for (size_t i = offset; i < offset + bytes; ++i) ASSERT_EQ(used[i]++, 0) << "byte " << i << " is taken twice";
    };
    for (uint32_t head = 0; head < l.kv_heads; ++head) {
      for (uint32_t token = 0; token < l.block_tokens; ++token) {
        take(l.VectorOffset(head, token), l.head_dim * KvElementBytes(l.dtype));
        if (l.dtype == KvDtype::kInt8) take(l.ScaleOffset(head, token), sizeof(float));
      }
    }
    EXPECT_EQ(l.PartBytes() % 64, 0u);
    const size_t taken = static_cast<size_t>(std::count(used.begin(), used.end(), 1));
    EXPECT_LT(l.PartBytes() - taken, 64u) << "padded to a cache line, no more";
    std::set<size_t> parts;
    for (uint32_t layer = 0; layer < l.layers; ++layer) {
      for (const uint32_t which : {0u, 1u}) parts.insert(l.PartOffset(layer, which));
    }
    EXPECT_EQ(parts.size(), 4u);
    EXPECT_EQ(*parts.rbegin() + l.PartBytes(), l.BlockBytes());
    EXPECT_EQ(l.BlockBytes(), l.layers * l.LayerBytes());
  }
}

TEST(KvLayout, TokensOfAHeadAreNeighbours) {
  const KvLayout l{1, 4, 64, 32, KvDtype::kF16};
  EXPECT_EQ(l.VectorOffset(0, 0), 0u);
  EXPECT_EQ(l.VectorOffset(0, 1), 128u);
  EXPECT_EQ(l.VectorOffset(1, 0), 32u * 128);
  EXPECT_EQ(l.VectorOffset(3, 31), l.DataBytes() - 128);
}

TEST(KvLayout, SizesOfAModelEverybodyKnows) {
  const KvLayout smol{30, 3, 64, 64, KvDtype::kF16};  // SmolLM2-135M: 23,040 bytes a token
  EXPECT_EQ(smol.BlockBytes(), 64u * 30 * 2 * 3 * 64 * 2);
  const KvLayout eight_bits{30, 3, 64, 64, KvDtype::kInt8};
  EXPECT_EQ(eight_bits.BlockBytes(), 64u * 30 * 2 * 3 * (64 + 4));
  const KvLayout large{80, 8, 128, 16, KvDtype::kBf16};
  EXPECT_EQ(large.BlockBytes(), 16u * 80 * 2 * 8 * 128 * 2);
}

TEST(KvLayout, ItsTextReadsBack) {
  for (const KvLayout& l : Layouts()) {
    const auto read = ParseKvLayout(l.ToString());
    ASSERT_TRUE(read.ok()) << read.status().ToString();
    EXPECT_EQ(*read, l);
  }
  EXPECT_EQ((KvLayout{30, 3, 64, 64, KvDtype::kF16}).ToString(), "v1 layers=30 kv_heads=3 head_dim=64 block_tokens=64 dtype=f16 rope=half")
      << "part of every key on disk: a change here orphans every store";
}

/// Different layouts never share a text, or one model's cache would be read as another's.
TEST(KvLayout, TextsTellLayoutsApart) {
  std::set<std::string> texts;
  const std::vector<KvLayout> layouts = Layouts();
  for (const KvLayout& l : layouts) texts.insert(l.ToString());
  EXPECT_EQ(texts.size(), layouts.size());
}

TEST(KvLayout, OtherTextsAreRefused) {
  const std::string good = KvLayout{30, 3, 64, 64, KvDtype::kF16}.ToString();
  for (const std::string& text : std::vector<std::string>{
           "", "v1", "v2" + good.substr(2), good + " ", " " + good, good + "\n", good + std::string(1, '\0'), good.substr(0, good.size() - 1), good + " more=1",
           "v1 layers=030 kv_heads=3 head_dim=64 block_tokens=64 dtype=f16 rope=half", "v1 layers=-1 kv_heads=3 head_dim=64 block_tokens=64 dtype=f16 rope=half",
           "v1 layers=30  kv_heads=3 head_dim=64 block_tokens=64 dtype=f16 rope=half", "v1 layers=4294967326 kv_heads=3 head_dim=64 block_tokens=64 dtype=f16 rope=half",
           "v1 layers=30 kv_heads=3 head_dim=64 block_tokens=64 dtype=f64 rope=half", "v1 layers=30 kv_heads=3 head_dim=64 block_tokens=64 dtype=float16x rope=half",
           "v1 layers=30 kv_heads=3 head_dim=64 block_tokens=64 dtype=f16 rope=full", "v1 kv_heads=3 layers=30 head_dim=64 block_tokens=64 dtype=f16 rope=half",
           "v1 layers=+30 kv_heads=3 head_dim=64 block_tokens=64 dtype=f16 rope=half", std::string(100'000, 'v')}) {
    const auto read = ParseKvLayout(text);
    EXPECT_FALSE(read.ok()) << text.substr(0, 200);
    EXPECT_EQ(read.status().code(), StatusCode::kInvalid);
  }
}

TEST(KvDtypes, NamesAndSizes) {
  for (const auto& [name, dtype, bytes] : {std::tuple{"f32", KvDtype::kF32, 4u}, {"f16", KvDtype::kF16, 2u}, {"bf16", KvDtype::kBf16, 2u}, {"int8", KvDtype::kInt8, 1u}}) {
    const auto parsed = ParseKvDtype(name);
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, dtype);
    EXPECT_EQ(KvDtypeName(dtype), name);
    EXPECT_EQ(KvElementBytes(dtype), bytes);
  }
  for (const char* name : {"", "F16", "fp16", "f16 ", "q8", "auto"}) {
    const auto parsed = ParseKvDtype(name);
    ASSERT_FALSE(parsed.ok()) << name;
    EXPECT_THAT(parsed.status().message(), testing::HasSubstr("f32, f16, bf16 or int8"));
  }
}

}  // namespace
}  // namespace baton
