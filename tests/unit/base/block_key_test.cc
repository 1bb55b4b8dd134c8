#include "base/block_key.h"

namespace baton {
namespace {

TEST(BlockKey, ChainBindsEveryTokenAndTheRoot) {
  const BlockKey root = RootKey({.model_fingerprint = Sha256(AsBytes("model")), .kv_layout = "L", .numerics = "exact"});
  std::vector<TokenId> tokens(200);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<TokenId>(i);
  const auto keys = KeyChain(root, tokens, 64);
  ASSERT_EQ(keys.size(), 3u);  // 200 / 64: the partial block has no key
  for (size_t changed : {0u, 70u, 191u}) {
    auto other = tokens;
    other[changed] += 1;
    const auto other_keys = KeyChain(root, other, 64);
    for (size_t i = 0; i < keys.size(); ++i) EXPECT_EQ(keys[i] == other_keys[i], i < changed / 64) << changed << " " << i;
  }
  const BlockKey salted =
      RootKey({.model_fingerprint = Sha256(AsBytes("model")), .kv_layout = "L", .numerics = "exact", .tenant_salt = "t"});
  EXPECT_NE(KeyChain(salted, tokens, 64)[0], keys[0]);
}

TEST(BlockKey, FieldsOfTheRootCannotRunIntoEachOther) {
  EXPECT_NE(RootKey({.kv_layout = "ab", .numerics = "c"}), RootKey({.kv_layout = "a", .numerics = "bc"}));
}

TEST(BlockKey, AnImageChangesItsBlockAndAllAfterIt) {
  const std::vector<TokenId> tokens(192, 7);
  const std::vector<ImageMark> a = {{70, Sha256(AsBytes("a"))}}, b = {{70, Sha256(AsBytes("b"))}};
  const auto ka = KeyChain({}, tokens, 64, a), kb = KeyChain({}, tokens, 64, b);
  EXPECT_EQ(ka[0], kb[0]);
  EXPECT_NE(ka[1], kb[1]);
  EXPECT_NE(ka[2], kb[2]);
}

TEST(BlockKey, HexRoundTripAndRefusal) {
  const BlockKey key = RootKey({.numerics = "x"});
  EXPECT_EQ(*ParseBlockKey(key.ToHex()), key);
  EXPECT_FALSE(ParseBlockKey("12").ok());
  EXPECT_FALSE(ParseBlockKey(std::string(64, 'g')).ok());
}

}  // namespace
}  // namespace baton
