#include "model/kv_read.h"

#include "base/bytes.h"
#include "model/model.h"

namespace baton {
namespace {

/// The fake model's K and V are multiples of 1/128, which every dtype holds exactly: whatever the dtype, the same is read.
TEST(KvRead, EveryDtypeReadsTheSameNumbers) {
  const std::vector<TokenId> tokens = {3, 1, 4, 1, 5, 9, 2};
  std::vector<float> expected;
  for (const KvDtype dtype : {KvDtype::kF32, KvDtype::kF16, KvDtype::kBf16, KvDtype::kInt8}) {
    const auto model = MakeFakeModel(20, {.layers = 2, .kv_heads = 2, .head_dim = 8, .block_tokens = 4, .dtype = dtype});
    const KvLayout& layout = model->kv_layout();
    std::vector<std::byte> memory(2 * layout.BlockBytes());
    const std::vector<std::byte*> blocks = {memory.data(), memory.data() + layout.BlockBytes()};
    const SequenceSlice slice{.tokens = tokens, .blocks = blocks};
    ASSERT_TRUE(model->Forward(std::span(&slice, 1)).ok());
    std::vector<float> got;
    for (uint32_t layer = 0; layer < 2; ++layer) {
      for (uint32_t which = 0; which < 2; ++which) {
        for (uint32_t head = 0; head < 2; ++head) {
          for (uint32_t position = 0; position < tokens.size(); ++position) {
            float vector[8];
            ReadKvVector(layout, blocks, layer, which, head, position, vector);
            got.insert(got.end(), vector, vector + 8);
          }
        }
      }
    }
    if (expected.empty()) expected = got;
    EXPECT_EQ(got, expected) << KvDtypeName(dtype);
    std::sort(got.begin(), got.end());
    EXPECT_GT(std::unique(got.begin(), got.end()) - got.begin(), 100) << "vectors are mixed up";
  }
}

}  // namespace
}  // namespace baton
