#include "kvstore/store_identity.h"

namespace baton {
namespace {

TEST(StoreIdentity, ReadsWhatItWrites) {
  const StoreIdentity identity{Sha256(AsBytes("model")), "exact", "v1 layers=30 kv_heads=3 head_dim=64 block_tokens=64 dtype=f16 rope=half"};
  const auto parsed = ParseStoreIdentity(identity.ToString());
  ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
  EXPECT_EQ(*parsed, identity);
}

TEST(StoreIdentity, RefusesOtherLines) {
  for (const char* line : {"", "model=", "model=12 numerics=exact kv=v1", "numerics=exact kv=v1", "kv=v1 numerics=exact"}) {
    EXPECT_EQ(ParseStoreIdentity(line).status().code(), StatusCode::kInvalid) << line;
  }
  std::string line = StoreIdentity{{}, "f32", "v1"}.ToString();
  line[10] = 'x';  // in the fingerprint
  EXPECT_FALSE(ParseStoreIdentity(line).ok());
}

}  // namespace
}  // namespace baton
