// The keys of KV blocks against an independent program that follows docs/block_format.md: stores outlive the binary that wrote them.
#include "base/block_key.h"
#include "base/random.h"

namespace baton {
namespace {

std::vector<TokenId> Tokens(size_t count, TokenId first = 0) {
  std::vector<TokenId> tokens(count);
  for (size_t i = 0; i < count; ++i) tokens[i] = first + static_cast<TokenId>(i);
  return tokens;
}

BlockKey Root() { return RootKey({.model_fingerprint = Sha256(AsBytes("model")), .kv_layout = "layers=2 heads=3", .numerics = "exact", .tenant_salt = "tenant"}); }

TEST(BlockKeyVectors, Roots) {
  EXPECT_EQ(RootKey({}).ToHex(), "ea7dbb7a5e20f82ecd92f703af1e5a0b36950b6df9ccbe69deef19edd2deb9e7");
  EXPECT_EQ(Root().ToHex(), "38a17d9f0a1ad0c491df99a4d5ce67b45f3f07e787176cfdc60fd536e0d8c487");
}

TEST(BlockKeyVectors, Chains) {
  const auto keys = KeyChain(Root(), Tokens(50), 16);
  ASSERT_EQ(keys.size(), 3u);
  EXPECT_EQ(keys[0].ToHex(), "fa4e52c68550cd80f71c191fef55ae85622aeeefb469ed8cfa69793a0eb7adb3");
  EXPECT_EQ(keys[1].ToHex(), "b6f451487953a8378bb297f147bd97340e18b231b73b7faa8443b73a6e63e5eb");
  EXPECT_EQ(keys[2].ToHex(), "03df8e8eeefafc89422aebaa9fc32e0eae17d6f8ff3a9cf0520ba50dc17dba42");
}

TEST(BlockKeyVectors, ImagesAndExtremeTokens) {
  const std::vector<Digest256> image = {Sha256(AsBytes("image"))};
  const BlockKey with = NextKey(Root(), Tokens(16), image);
  EXPECT_EQ(with.ToHex(), "0ad2b0092b7b2b995276329871f707c448bdbca1f7315576f8e0a694479d45d9");
  EXPECT_EQ(NextKey(with, std::vector<TokenId>{-1, 2147483647}).ToHex(), "931488919bc3a711097f1a1f7990718679279a0d78853a1e5416bbdb3f303a33");
  EXPECT_EQ(NextKey(Root(), {}).ToHex(), "22d974bc719ffc794f4d474e95aa4e78045d646b2e6a7eeff3fb6ca0b1b0258c");
}

TEST(BlockKeyProperties, AChainIsItsLinks) {
  Random random(4);
  for (int round = 0; round < 40; ++round) {
    const size_t block = 1 + random.Below(40), count = random.Below(200);
    std::vector<TokenId> tokens(count);
    for (TokenId& t : tokens) t = static_cast<TokenId>(random.Below(1000));
    const auto keys = KeyChain(Root(), tokens, block);
    ASSERT_EQ(keys.size(), count / block);
    BlockKey parent = Root();
    for (size_t i = 0; i < keys.size(); ++i) {
      parent = NextKey(parent, std::span(tokens).subspan(i * block, block));
      EXPECT_EQ(keys[i], parent);
    }
    // A longer prompt keeps the keys of its beginning.
    auto longer = tokens;
    longer.resize(count + block * 2, 7);
    const auto more = KeyChain(Root(), longer, block);
    EXPECT_TRUE(std::equal(keys.begin(), keys.end(), more.begin()));
  }
}

TEST(BlockKeyProperties, EveryFieldOfTheRootMatters) {
  const BlockKeyRoot base{.model_fingerprint = Sha256(AsBytes("m")), .kv_layout = "a", .numerics = "b", .tenant_salt = "c"};
  std::vector<BlockKeyRoot> roots(6, base);
  roots[1].model_fingerprint[31] ^= std::byte{1};
  roots[2].kv_layout = "a ";
  roots[3].numerics = "";
  roots[4].tenant_salt = "cc";
  std::swap(roots[5].kv_layout, roots[5].numerics);
  std::set<BlockKey> keys;
  for (const BlockKeyRoot& root : roots) EXPECT_TRUE(keys.insert(RootKey(root)).second);
}

TEST(BlockKeyProperties, TheEdgesBetweenBlocksMatter) {
  // The same tokens cut elsewhere, or moved by one, are other blocks.
  const auto tokens = Tokens(96);
  std::set<BlockKey> keys;
  for (const size_t block : {16u, 32u, 48u}) {
    for (const BlockKey& key : KeyChain(Root(), tokens, block)) EXPECT_TRUE(keys.insert(key).second) << block;
  }
  for (const BlockKey& key : KeyChain(Root(), Tokens(96, 1), 16)) EXPECT_TRUE(keys.insert(key).second);
}

TEST(BlockKeyProperties, ImagesCountInTheBlockWhereTheyBegin) {
  const auto tokens = Tokens(64);
  const auto plain = KeyChain(Root(), tokens, 16);
  for (size_t at = 0; at < 64; ++at) {
    const std::vector<ImageMark> marks = {{at, Sha256(AsBytes("i"))}};
    const auto keys = KeyChain(Root(), tokens, 16, marks);
    for (size_t i = 0; i < keys.size(); ++i) EXPECT_EQ(keys[i] == plain[i], i < at / 16) << at << " " << i;
  }
  const Digest256 a = Sha256(AsBytes("a")), b = Sha256(AsBytes("b"));
  const std::vector<ImageMark> ab = {{1, a}, {2, b}}, ba = {{1, b}, {2, a}}, outside = {{64, a}, {1000, b}};
  EXPECT_NE(KeyChain(Root(), tokens, 16, ab)[0], KeyChain(Root(), tokens, 16, ba)[0]) << "order matters";
  EXPECT_EQ(KeyChain(Root(), tokens, 16, outside), plain);
}

TEST(BlockKeyText, ParsesWhatItPrintsAndNothingElse) {
  const BlockKey key = Root();
  std::string hex = key.ToHex(), upper = hex;
  std::transform(upper.begin(), upper.end(), upper.begin(), [](unsigned char c) { return std::toupper(c); });
  EXPECT_EQ(*ParseBlockKey(hex), key);
  EXPECT_EQ(*ParseBlockKey(upper), key);
  for (const std::string& bad : {std::string(), hex.substr(1), hex + "0", hex.substr(2), " " + hex.substr(1), hex.substr(0, 63) + "g", "0x" + hex.substr(2), std::string(64, '\0'), std::string(64, '\xff')}) {
    EXPECT_EQ(ParseBlockKey(bad).status().code(), StatusCode::kInvalid) << bad;
  }
  uint64_t prefix = 0;
  std::memcpy(&prefix, key.bytes.data(), 8);
  EXPECT_EQ(key.Prefix64(), prefix);
  EXPECT_EQ(std::hash<BlockKey>()(key), prefix);
  EXPECT_LT(BlockKey{}, key);
}

}  // namespace
}  // namespace baton
