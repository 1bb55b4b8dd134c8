// DynamicCache files and blocks both ways, for random shapes, types and block sizes; int8 chains, positions and metadata.
#include "app/dynamic_cache.h"

#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/random.h"
#include "model/quant.h"

namespace baton {
namespace {

class CacheFileTest : public testing::Test {
 protected:
  CacheFileTest() {
    std::string name = (std::filesystem::temp_directory_path() / "baton-cache-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  ~CacheFileTest() override { std::filesystem::remove_all(folder_); }
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }

  struct Cache {
    uint32_t layers, heads, tokens, dim;
    KvDtype dtype;
    std::vector<TokenId> ids;
    std::vector<std::vector<std::byte>> parts;  // key and value of each layer
    std::map<std::string, std::string> more;    // metadata
  };
  static Cache Random_(Random& random, KvDtype dtype) {
    Cache c{static_cast<uint32_t>(1 + random.Below(3)), static_cast<uint32_t>(1 + random.Below(3)), static_cast<uint32_t>(1 + random.Below(70)), static_cast<uint32_t>(2 * (1 + random.Below(8))), dtype, {}, {}, {}};
    for (uint32_t t = 0; t < c.tokens; ++t) c.ids.push_back(static_cast<TokenId>(random.Below(50000)));
    for (uint32_t part = 0; part < 2 * c.layers; ++part) {
      std::vector<std::byte> bytes;
      for (uint32_t i = 0; i < c.heads * c.tokens * c.dim; ++i) {
        const float value = static_cast<float>(random.Uniform() * 8 - 4);
        const uint16_t half = dtype == KvDtype::kF16 ? quant::FloatToHalf(value) : static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
        const auto* from = dtype == KvDtype::kF32 ? reinterpret_cast<const std::byte*>(&value) : reinterpret_cast<const std::byte*>(&half);
        bytes.insert(bytes.end(), from, from + KvElementBytes(dtype));
      }
      c.parts.push_back(std::move(bytes));
    }
    return c;
  }
  std::string Write(const Cache& c, const std::string& name) {
    std::map<std::string, std::string> metadata = {{"format", "hf_dynamic_cache"}, {"version", "1"}, {"layout", "BHTD"}, {"rope", "applied"}, {"batch_size", "1"}, {"token_ids", nlohmann::json(c.ids).dump()}};
    metadata.insert(c.more.begin(), c.more.end());
    const SafetensorsType type = c.dtype == KvDtype::kF32 ? SafetensorsType::kF32 : c.dtype == KvDtype::kF16 ? SafetensorsType::kF16 : SafetensorsType::kBF16;
    std::vector<SafetensorsTensor> tensors;
    for (uint32_t part = 0; part < 2 * c.layers; ++part) {
      tensors.push_back({fmt::format("layers.{}.{}", part / 2, part % 2 == 0 ? "key" : "value"), type, {1, c.heads, c.tokens, c.dim}, c.parts[part]});
    }
    EXPECT_TRUE(WriteSafetensors(Path(name), tensors, metadata).ok());
    return Path(name);
  }
  static StoreIdentity Identity(const KvLayout& layout) { return {Sha256(AsBytes("model")), "exact", layout.ToString()}; }
  static std::vector<StoredBlock> Stored(const std::vector<CacheBlock>& blocks) {
    std::vector<StoredBlock> stored;
    for (const CacheBlock& block : blocks) stored.push_back({block.header, block.bytes, false});
    return stored;
  }
  std::string folder_;
};

TEST_F(CacheFileTest, RandomCachesComeBackBitForBit) {
  Random random(2);
  for (int round = 0; round < 40; ++round) {
    const KvDtype dtype = std::array{KvDtype::kF32, KvDtype::kF16, KvDtype::kBf16}[round % 3];
    const Cache cache = Random_(random, dtype);
    const auto file = OpenDynamicCache(Write(cache, "in"));
    ASSERT_TRUE(file.ok()) << file.status().ToString();
    EXPECT_EQ(std::tie(file->layout.layers, file->layout.kv_heads, file->tokens, file->layout.head_dim, file->layout.dtype), std::tie(cache.layers, cache.heads, cache.tokens, cache.dim, cache.dtype));
    EXPECT_EQ(file->token_ids, cache.ids);
    KvLayout layout = file->layout;
    layout.block_tokens = static_cast<uint32_t>(1 + random.Below(80));
    const auto blocks = SplitDynamicCache(*file, Identity(layout), layout);
    ASSERT_TRUE(blocks.ok()) << blocks.status().ToString();
    ASSERT_EQ(blocks->size(), (cache.tokens + layout.block_tokens - 1) / layout.block_tokens);
    // The keys of full blocks are those that a worker of this model asks for.
    const auto chain = KeyChain(RootKey({Sha256(AsBytes("model")), layout.ToString(), "exact", ""}), cache.ids, layout.block_tokens);
    for (size_t i = 0; i < chain.size(); ++i) EXPECT_EQ((*blocks)[i].header.key, chain[i]);
    for (size_t i = 0; i < blocks->size(); ++i) {
      const BlockHeader& header = (*blocks)[i].header;
      EXPECT_EQ(header.depth, i);
      EXPECT_EQ(header.digest, Xxh3((*blocks)[i].bytes));
      EXPECT_EQ(header.parent, i == 0 ? RootKey({Sha256(AsBytes("model")), layout.ToString(), "exact", ""}) : (*blocks)[i - 1].header.key);
    }
    ASSERT_TRUE(WriteDynamicCache(Path("out"), Stored(*blocks), layout, "name").ok());
    const auto back = OpenDynamicCache(Path("out"));
    ASSERT_TRUE(back.ok()) << back.status().ToString();
    EXPECT_EQ(back->token_ids, cache.ids);
    for (uint32_t part = 0; part < 2 * cache.layers; ++part) {
      const Bytes data = back->file->Find(fmt::format("layers.{}.{}", part / 2, part % 2 == 0 ? "key" : "value"))->data;
      EXPECT_TRUE(std::equal(data.begin(), data.end(), cache.parts[part].begin(), cache.parts[part].end())) << "round " << round << " part " << part;
    }
  }
}

TEST_F(CacheFileTest, OtherTypesAreRoundedToNearest) {
  Random random(3);
  const Cache cache = Random_(random, KvDtype::kF32);
  const auto file = OpenDynamicCache(Write(cache, "in"));
  ASSERT_TRUE(file.ok());
  for (const KvDtype dtype : {KvDtype::kF16, KvDtype::kBf16}) {
    KvLayout layout = file->layout;
    layout.dtype = dtype;
    layout.block_tokens = 16;
    const auto blocks = SplitDynamicCache(*file, Identity(layout), layout);
    ASSERT_TRUE(blocks.ok());
    ASSERT_TRUE(WriteDynamicCache(Path("out"), Stored(*blocks), layout, "").ok());
    const auto back = OpenDynamicCache(Path("out"));
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(back->file->metadata().at("dtype"), dtype == KvDtype::kF16 ? "float16" : "bfloat16");
    const Bytes data = back->file->Find("layers.0.value")->data;
    for (size_t i = 0; i < data.size() / 2; ++i) {
      uint16_t bits = 0;
      float exact = 0;
      std::memcpy(&bits, data.data() + 2 * i, 2);
      std::memcpy(&exact, cache.parts[1].data() + 4 * i, 4);
      const float rounded = dtype == KvDtype::kF16 ? quant::HalfToFloat(bits) : quant::Bf16ToFloat(bits);
      const float step = std::abs(exact) * (dtype == KvDtype::kF16 ? 0x1p-11f : 0x1p-8f) + 1e-7f;
      ASSERT_LE(std::abs(rounded - exact), step) << i;
    }
  }
  KvLayout int8 = file->layout;
  int8.dtype = KvDtype::kInt8;
  EXPECT_EQ(SplitDynamicCache(*file, Identity(int8), int8).status().code(), StatusCode::kInvalid);
  KvLayout other = file->layout;
  ++other.kv_heads;
  EXPECT_THAT(SplitDynamicCache(*file, Identity(other), other).status().message(), testing::HasSubstr("another model"));
}

TEST_F(CacheFileTest, Int8ChainsBecomeFloats) {
  KvLayout layout{.layers = 2, .kv_heads = 2, .head_dim = 4, .block_tokens = 16, .dtype = KvDtype::kInt8};
  StoredBlock block;
  block.header.tokens = 3;
  block.header.token_ids = {7, 8, 9};
  block.bytes.resize(layout.BlockBytes());
  const auto value = [](uint32_t layer, uint32_t which, uint32_t head, uint32_t t, uint32_t d) { return static_cast<int8_t>(layer * 40 + which * 20 + head * 9 + t * 3 + d - 60); };
  for (uint32_t layer = 0; layer < 2; ++layer) {
    for (uint32_t which = 0; which < 2; ++which) {
      for (uint32_t head = 0; head < 2; ++head) {
        for (uint32_t t = 0; t < 3; ++t) {
          std::byte* part = block.bytes.data() + layout.PartOffset(layer, which);
          const float scale = 0.5f + static_cast<float>(t);
          std::memcpy(part + layout.ScaleOffset(head, t), &scale, 4);
          for (uint32_t d = 0; d < 4; ++d) part[layout.VectorOffset(head, t) + d] = static_cast<std::byte>(value(layer, which, head, t, d));
        }
      }
    }
  }
  ASSERT_TRUE(WriteDynamicCache(Path("out"), std::span(&block, 1), layout, "m").ok());
  const auto back = OpenDynamicCache(Path("out"));
  ASSERT_TRUE(back.ok()) << back.status().ToString();
  EXPECT_EQ(back->layout.dtype, KvDtype::kF32);
  for (uint32_t layer = 0; layer < 2; ++layer) {
    const Bytes data = back->file->Find(fmt::format("layers.{}.value", layer))->data;
    for (uint32_t head = 0; head < 2; ++head) {
      for (uint32_t t = 0; t < 3; ++t) {
        for (uint32_t d = 0; d < 4; ++d) {
          float got = 0;
          std::memcpy(&got, data.data() + ((head * 3 + t) * 4 + d) * 4, 4);
          EXPECT_EQ(got, static_cast<float>(value(layer, 1, head, t, d)) * (0.5f + static_cast<float>(t)));
        }
      }
    }
  }
}

TEST_F(CacheFileTest, MetadataTravelsUnread) {
  Random random(4);
  Cache cache = Random_(random, KvDtype::kF32);
  cache.more = {{"model", "tiny"}, {"rope_delta", "-3"}, {"next_position", "40"}, {"note", "caf\xc3\xa9 \"quoted\""}};
  const auto file = OpenDynamicCache(Write(cache, "in"));
  ASSERT_TRUE(file.ok());
  KvLayout layout = file->layout;
  layout.block_tokens = 8;
  const auto blocks = SplitDynamicCache(*file, Identity(layout), layout);
  ASSERT_TRUE(blocks.ok());
  ASSERT_TRUE(WriteDynamicCache(Path("out"), Stored(*blocks), layout, "written name").ok());
  const auto back = OpenDynamicCache(Path("out"));
  ASSERT_TRUE(back.ok());
  for (const auto& [name, value] : cache.more) EXPECT_EQ(back->file->metadata().at(name), value) << name;
  EXPECT_EQ(back->file->metadata().at("seq_length"), std::to_string(cache.tokens));
  EXPECT_EQ(back->file->metadata().at("num_key_value_heads"), std::to_string(cache.heads));
}

TEST_F(CacheFileTest, ChainsThatAreNoneAreRefused) {
  KvLayout layout{.layers = 1, .kv_heads = 1, .head_dim = 2, .block_tokens = 4, .dtype = KvDtype::kF32};
  const auto block = [&](uint32_t tokens) {
    StoredBlock b;
    b.header.tokens = tokens;
    b.header.token_ids.assign(tokens, 1);
    b.bytes.resize(layout.BlockBytes());
    return b;
  };
  const auto refused = [&](std::vector<StoredBlock> chain) { return WriteDynamicCache(Path("out"), chain, layout, "").code() == StatusCode::kInvalid; };
  EXPECT_TRUE(refused({}));
  EXPECT_TRUE(refused({block(3), block(4)})) << "a short block that is not the last";
  EXPECT_TRUE(refused({block(5)})) << "more tokens than a block has";
  StoredBlock nameless = block(4), cut = block(4);
  nameless.header.token_ids.clear();
  cut.bytes.resize(cut.bytes.size() - 1);
  EXPECT_TRUE(refused({nameless}));
  EXPECT_TRUE(refused({cut}));
  EXPECT_FALSE(std::filesystem::exists(Path("out")));
  EXPECT_TRUE(WriteDynamicCache(Path("out"), std::vector<StoredBlock>{block(4), block(1)}, layout, "").ok());
  EXPECT_FALSE(WriteDynamicCache(Path("none/out"), std::vector<StoredBlock>{block(4)}, layout, "").ok());
}

}  // namespace
}  // namespace baton
