#include "base/bytes.h"
#include "model/model.h"

namespace baton {
namespace {

constexpr uint32_t kVocab = 50;

/// Blocks of one sequence, poisoned so that unwritten bytes show.
struct Blocks {
  Blocks(const KvLayout& layout, size_t count) : storage(count, std::vector<std::byte>(layout.BlockBytes(), std::byte{0xcd})) {
    for (auto& block : storage) pointers.push_back(block.data());
  }
  std::vector<std::vector<std::byte>> storage;
  std::vector<std::byte*> pointers;
};

KvLayout Layout(KvDtype dtype = KvDtype::kF16) {
  return {.layers = 2, .kv_heads = 2, .head_dim = 8, .block_tokens = 4, .dtype = dtype};
}

std::vector<float> RunOnce(Model& model, std::span<const TokenId> tokens, uint32_t start, Blocks& blocks) {
  std::vector<float> logits(model.info().vocab);
  const SequenceSlice slice{.tokens = tokens, .start = start, .blocks = blocks.pointers, .logit_rows = 1, .logits = logits.data()};
  EXPECT_TRUE(model.Forward(std::span(&slice, 1)).ok());
  return logits;
}

TEST(FakeModel, ChunksGiveTheSameBytesAndLogits) {
  for (KvDtype dtype : {KvDtype::kF32, KvDtype::kF16, KvDtype::kBf16, KvDtype::kInt8}) {
    auto model = MakeFakeModel(kVocab, Layout(dtype));
    const std::vector<TokenId> tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5};
    Blocks whole(model->kv_layout(), 3), parts(model->kv_layout(), 3);
    const auto expected = RunOnce(*model, tokens, 0, whole);
    RunOnce(*model, std::span(tokens).first(5), 0, parts);
    EXPECT_EQ(RunOnce(*model, std::span(tokens).subspan(5), 5, parts), expected);
    EXPECT_EQ(parts.storage, whole.storage);
  }
}

TEST(FakeModel, AnyChangedByteOfAnEarlierBlockChangesTheLogits) {
  auto model = MakeFakeModel(kVocab, Layout());
  const KvLayout& layout = model->kv_layout();
  const std::vector<TokenId> prefix = {3, 1, 4, 1}, last = {5};
  Blocks blocks(layout, 2);
  RunOnce(*model, prefix, 0, blocks);
  const auto expected = RunOnce(*model, last, 4, blocks);
  for (size_t i = 0; i < layout.layers * 2 * layout.DataBytes(); i += 7) {
    blocks.storage[0][i] ^= std::byte{1};
    EXPECT_NE(RunOnce(*model, last, 4, blocks), expected) << "byte " << i;
    blocks.storage[0][i] ^= std::byte{1};
  }
  EXPECT_EQ(RunOnce(*model, last, 4, blocks), expected);
}

TEST(FakeModel, TokensAndPositionsMatter) {
  auto model = MakeFakeModel(kVocab, Layout());
  const std::vector<TokenId> a = {1, 2}, b = {2, 1}, c = {1, 3};
  Blocks ka(model->kv_layout(), 1), kb(model->kv_layout(), 1), kc(model->kv_layout(), 1);
  const auto la = RunOnce(*model, a, 0, ka), lb = RunOnce(*model, b, 0, kb), lc = RunOnce(*model, c, 0, kc);
  EXPECT_NE(la, lb);
  EXPECT_NE(la, lc);
  EXPECT_NE(ka.storage, kb.storage);
}

TEST(FakeModel, EachLayerIsReportedAfterItsBytes) {
  auto model = MakeFakeModel(kVocab, Layout());
  const KvLayout& layout = model->kv_layout();
  Blocks blocks(layout, 1);
  const std::vector<TokenId> tokens = {1, 2, 3, 4};
  const SequenceSlice slice{.tokens = tokens, .blocks = blocks.pointers};
  std::vector<uint32_t> seen;
  const auto first_byte = [&](uint32_t layer) { return blocks.storage[0].begin() + layer * layout.LayerBytes(); };
  ASSERT_TRUE(model->Forward(std::span(&slice, 1), [&](uint32_t layer) {
    seen.push_back(layer);
    const auto begin = first_byte(layer);
    EXPECT_NE(std::count(begin, begin + layout.LayerBytes(), std::byte{0xcd}), static_cast<long>(layout.LayerBytes()));
    if (layer == 0) {
      EXPECT_EQ(std::count(first_byte(1), first_byte(1) + 64, std::byte{0xcd}), 64);
    }
  }).ok());
  EXPECT_EQ(seen, (std::vector<uint32_t>{0, 1}));
}

TEST(FakeModel, RefusesBadInputAndWritesNothing) {
  auto model = MakeFakeModel(kVocab, Layout());
  Blocks blocks(model->kv_layout(), 2);
  const auto untouched = blocks.storage;
  std::vector<float> logits(kVocab);
  const std::vector<TokenId> good = {1, 2, 3, 4, 5}, high = {1, TokenId{kVocab}}, negative = {-1};
  const std::span<std::byte* const> one(blocks.pointers.data(), 1);
  std::vector<std::byte*> null_block = {nullptr, nullptr};
  const SequenceSlice ok{.tokens = good, .blocks = blocks.pointers};
  const std::vector<SequenceSlice> bad = {
      {.tokens = high, .blocks = blocks.pointers},
      {.tokens = negative, .blocks = blocks.pointers},
      {.tokens = good, .blocks = one},
      {.tokens = good, .blocks = null_block},
      {.tokens = {}, .blocks = blocks.pointers},
      {.tokens = good, .start = model->info().max_positions - 2, .blocks = blocks.pointers},
      {.tokens = good, .start = UINT32_MAX, .blocks = blocks.pointers},
      {.tokens = good, .blocks = blocks.pointers, .logit_rows = 6, .logits = logits.data()},
      {.tokens = good, .blocks = blocks.pointers, .logit_rows = 1},
  };
  for (size_t i = 0; i < bad.size(); ++i) {
    const std::vector<SequenceSlice> batch = {ok, bad[i]};
    EXPECT_EQ(model->Forward(batch).code(), StatusCode::kInvalid) << i;
    EXPECT_EQ(blocks.storage, untouched) << i;
  }
}

TEST(FakeModel, LogitRowsAreTheLastOnesAndHiddenIsFilled) {
  auto model = MakeFakeModel(kVocab, Layout());
  const std::vector<TokenId> tokens = {7, 8, 9};
  Blocks blocks(model->kv_layout(), 1), again(model->kv_layout(), 1);
  const ModelInfo& info = model->info();
  std::vector<float> all(3 * kVocab), hidden((info.layers + 1) * 3 * info.hidden, -1.0f);
  const SequenceSlice slice{.tokens = tokens, .blocks = blocks.pointers, .logit_rows = 3, .logits = all.data(), .hidden = hidden.data()};
  ASSERT_TRUE(model->Forward(std::span(&slice, 1)).ok());
  const auto last = RunOnce(*model, tokens, 0, again);
  EXPECT_TRUE(std::equal(last.begin(), last.end(), all.begin() + 2 * kVocab));
  EXPECT_FALSE(std::equal(last.begin(), last.end(), all.begin()));
  EXPECT_EQ(std::count(hidden.begin(), hidden.end(), -1.0f), 0);
}

TEST(FakeModel, FingerprintNamesVocabularyAndLayout) {
  const auto a = MakeFakeModel(kVocab, Layout()), b = MakeFakeModel(kVocab, Layout(KvDtype::kInt8)), c = MakeFakeModel(51, Layout());
  EXPECT_NE(a->info().fingerprint, b->info().fingerprint);
  EXPECT_NE(a->info().fingerprint, c->info().fingerprint);
  EXPECT_EQ(a->info().fingerprint, MakeFakeModel(kVocab, Layout())->info().fingerprint);
}

}  // namespace
}  // namespace baton
