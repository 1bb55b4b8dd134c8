// Every kernel, on every instruction set of this CPU, for every tensor type: near a reference in double, and equal to the
// scalar table bit for bit, whatever the number of rows beside.
#include "model/kernels/kernels.h"

#include "model/kernels/half.h"
#include "tests/unit/model/kernels_support.h"

namespace baton {
namespace {

/// The largest distance to the product in double, in units of what the digits allow: Σ |w| * (largest |x| of its block) / steps.
double WorstError(const RandomTensor& weights, const std::vector<float>& x, uint32_t rows, const std::vector<float>& out, double steps) {
  const auto cols = static_cast<uint32_t>(weights.tensor.cols()), outputs = static_cast<uint32_t>(weights.tensor.rows());
  double worst = 0;
  for (uint32_t o = 0; o < outputs; ++o) {
    const std::vector<float> w = weights.Row(o);
    for (uint32_t r = 0; r < rows; ++r) {
      double sum = 0, allowed = 1e-7;
      for (uint32_t b = 0; b < cols; b += kBlock) {
        double largest = 0, absolute = 0;
        for (uint32_t k = b; k < std::min(b + kBlock, cols); ++k) {
          sum += double{w[k]} * x[size_t{r} * cols + k];
          largest = std::max(largest, std::fabs(double{x[size_t{r} * cols + k]}));
          absolute += std::fabs(double{w[k]});
        }
        allowed += absolute * largest / steps;
      }
      worst = std::max(worst, std::fabs(sum - out[size_t{r} * outputs + o]) / allowed);
    }
  }
  return worst;
}

class EveryType : public testing::TestWithParam<TensorType> {};
INSTANTIATE_TEST_SUITE_P(Kernels, EveryType, testing::ValuesIn(kTensorTypes),
                         [](const auto& info) { return std::string(FindTensorType(static_cast<uint32_t>(info.param))->name); });

TEST_P(EveryType, UnpackedRowEqualsTheFile) {
  const RandomTensor weights(GetParam(), 37, 512, 1);
  for (const PackRoute route : {PackRoute::kInteger, PackRoute::kFloat}) {
    const Packed packed(weights.tensor, route);
    for (uint32_t row = 0; row < 37; ++row) {
      std::vector<float> unpacked(512);
      UnpackRow(packed.matrix, row, unpacked.data());
      EXPECT_EQ(unpacked, weights.Row(row)) << row;
    }
  }
  const Packed rounded(weights.tensor, PackRoute::kRoundToBf16);
  std::vector<float> unpacked(512), expected = weights.Row(36);
  for (float& value : expected) value = Bf16ToF32(F32ToBf16(value));
  UnpackRow(rounded.matrix, 36, unpacked.data());
  EXPECT_EQ(unpacked, expected);
}

TEST_P(EveryType, QuantisedWeightsKeepTheirBits) {
  const RandomTensor weights(GetParam(), 64, 512, 1);
  const double packed = static_cast<double>(PlanMatrix(weights.tensor, PackRoute::kInteger).bytes());
  const bool widened = GetParam() == TensorType::kQ5_0 || GetParam() == TensorType::kQ5_1 || GetParam() == TensorType::kQ5_K || GetParam() == TensorType::kQ6_K;
  EXPECT_LE(packed, static_cast<double>(weights.bytes.size()) * (widened ? 1.6 : 1.04));
}

TEST_P(EveryType, MatmulIsNearTheReferenceAndTheSameOnEveryIsa) {
  for (const auto& [outputs, cols] : std::vector<std::pair<uint32_t, uint32_t>>{{48, 256}, {5, 512}, {67, 768}}) {
    const RandomTensor weights(GetParam(), outputs, cols, outputs);
    const std::vector<float> x = Randoms(size_t{21} * cols, 7, 3);
    for (const PackRoute route : {PackRoute::kInteger, PackRoute::kFloat}) {
      const Packed packed(weights.tensor, route);
      for (const bool one_digit : {false, true}) {
        const bool integer = IsInteger(packed.matrix.form);
        const std::vector<float> expected = Multiply(kScalarKernels, packed.matrix, x, 21, one_digit);
        EXPECT_LE(WorstError(weights, x, 21, expected, !integer ? 1e6 : one_digit ? 253 : 64000), 1.0) << outputs << "x" << cols << one_digit;
        for (const Kernels* kernels : AvailableKernels()) {
          EXPECT_TRUE(SameBits(expected, Multiply(*kernels, packed.matrix, x, 21, one_digit))) << kernels->name << " " << outputs << "x" << cols << one_digit;
        }
      }
    }
  }
}

TEST_P(EveryType, ARowIsTheSameInAnyCompany) {
  constexpr uint32_t kCols = 512, kOutputs = 40, kRows = 77;
  const RandomTensor weights(GetParam(), kOutputs, kCols, 3);
  const std::vector<float> x = Randoms(size_t{kRows} * kCols, 9);
  for (const PackRoute route : {PackRoute::kInteger, PackRoute::kFloat}) {
    const Packed packed(weights.tensor, route);
    for (const Kernels* kernels : AvailableKernels()) {
      const std::vector<float> all = Multiply(*kernels, packed.matrix, x, kRows, false);
      for (const uint32_t count : {1u, 2u, 3u, 7u, 13u}) {
        const uint32_t first = kRows - count;
        const std::vector<float> some(x.begin() + first * kCols, x.end());
        EXPECT_TRUE(SameBits(Multiply(*kernels, packed.matrix, some, count, false), std::vector<float>(all.begin() + first * kOutputs, all.end())))
            << kernels->name << count;
      }
    }
  }
}

TEST(Kernels, MatmulAddsBiasAndAccumulatesAtItsPlace) {
  for (const TensorType type : {TensorType::kQ4_1, TensorType::kF32}) {
    const RandomTensor weights(type, 39, 64, 4);  // the last tile has 7 outputs
    const Packed packed(weights.tensor, PackRoute::kInteger);
    const std::vector<float> x = Randoms(3 * 64, 5), bias = Randoms(39, 6);
    for (const Kernels* kernels : AvailableKernels()) {
      const std::vector<float> plain = Multiply(*kernels, packed.matrix, x, 3, false);
      const std::vector<float> both = Multiply(*kernels, packed.matrix, x, 3, false, {nullptr, 0, bias.data(), true});
      for (size_t i = 0; i < plain.size(); ++i) EXPECT_EQ(both[i], 0.5f + (plain[i] + bias[i % 39])) << kernels->name << i;
      std::vector<float> part(3 * 32, 9);  // outputs 16 to 38 alone, 32 places a row
      const Quantised quantised(*kernels, x, 3, 64, false);
      const MatmulOut out{part.data(), 32, nullptr, false, 16};
      if (type == TensorType::kF32) kernels->matmul_float(packed.matrix, x.data(), 64, 3, out, 1, 3);
      else kernels->matmul_int(packed.matrix, quantised.rows, 3, out, 1, 3);
      for (size_t r = 0; r < 3; ++r) {
        for (size_t o = 16; o < 39; ++o) EXPECT_EQ(part[r * 32 + o - 16], plain[r * 39 + o]);
        for (size_t o = 39; o < 48; ++o) EXPECT_EQ(part[r * 32 + o - 16], 9) << "written past the last output";
      }
    }
  }
}

TEST(Kernels, QuantisingZerosAndExtremesStaysFinite) {
  std::vector<float> x(96, 0.0f);
  for (size_t i = 32; i < 64; ++i) x[i] = i % 2 ? 3e38f : -3e38f;
  for (size_t i = 64; i < 96; ++i) x[i] = 1e-40f;  // subnormal
  const RandomTensor weights(TensorType::kQ8_0, 16, 96, 8);
  const Packed packed(weights.tensor, PackRoute::kInteger);
  for (const bool one_digit : {false, true}) {
    const std::vector<float> expected = Multiply(kScalarKernels, packed.matrix, x, 1, one_digit);
    for (const float value : expected) EXPECT_FALSE(std::isnan(value));
    for (const Kernels* kernels : AvailableKernels()) EXPECT_TRUE(SameBits(expected, Multiply(*kernels, packed.matrix, x, 1, one_digit))) << kernels->name;
  }
}

TEST(Kernels, RowFunctionsMatchTheReference) {
  for (const uint32_t n : {2u, 15u, 16u, 17u, 64u, 576u, 1000u}) {
    const std::vector<float> x = Randoms(n, n, 20), y = Randoms(n, n + 1);
    std::vector<float> scalar_norm(n), scalar_silu = x, scalar_rope = x;
    kScalarKernels.rms_norm(x.data(), y.data(), n, 1e-5f, scalar_norm.data());
    kScalarKernels.silu_mul(scalar_silu.data(), y.data(), n);
    kScalarKernels.rotate(scalar_rope.data(), y.data(), y.data() + n / 2, n / 2);
    double squares = 0;
    for (const float value : x) squares += double{value} * value;
    for (uint32_t i = 0; i < n; ++i) {
      EXPECT_NEAR(scalar_norm[i], x[i] / std::sqrt(squares / n + 1e-5) * y[i], 2e-6);
      EXPECT_NEAR(scalar_silu[i], x[i] / (1 + std::exp(-double{x[i]})) * y[i], 4e-6);
    }
    for (uint32_t j = 0; j < n / 2; ++j) {
      EXPECT_NEAR(scalar_rope[j], double{x[j]} * y[j] - double{x[n / 2 + j]} * y[n / 2 + j], 1e-5);
      EXPECT_NEAR(scalar_rope[n / 2 + j], double{x[n / 2 + j]} * y[j] + double{x[j]} * y[n / 2 + j], 1e-5);
    }
    for (const Kernels* kernels : AvailableKernels()) {
      std::vector<float> norm(n), silu = x, rope = x;
      kernels->rms_norm(x.data(), y.data(), n, 1e-5f, norm.data());
      kernels->silu_mul(silu.data(), y.data(), n);
      kernels->rotate(rope.data(), y.data(), y.data() + n / 2, n / 2);
      EXPECT_TRUE(SameBits(norm, scalar_norm) && SameBits(silu, scalar_silu) && SameBits(rope, scalar_rope)) << kernels->name << n;
    }
  }
}

TEST(Kernels, SiluOfExtremesIsFinite) {
  const std::vector<float> x = {-1e30f, -200, -88, -87, -0.0f, 0, 87, 88, 200, 1e30f}, ones(x.size(), 1.0f);
  for (const Kernels* kernels : AvailableKernels()) {
    std::vector<float> y = x;
    kernels->silu_mul(y.data(), ones.data(), y.size());
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_TRUE(std::isfinite(y[i])) << kernels->name << x[i];
      const float expected = x[i] > 0 ? x[i] : 0.0f;
      EXPECT_NEAR(y[i], expected, 1e-6f * expected + 1e-7f);
    }
  }
}

/// A paged cache filled with random vectors through store_kv, and queries over it.
struct Cache {
  KvLayout layout;
  uint32_t positions, group;
  std::vector<std::vector<std::byte>> memory;
  std::vector<std::byte*> blocks;
  std::vector<float> queries;  // [position][group][head_dim], all of KV head 1

  Cache(const Kernels& kernels, KvLayout layout_in, uint32_t positions_in, uint32_t group_in) : layout(layout_in), positions(positions_in), group(group_in) {
    memory.resize(CeilDiv(positions, layout.block_tokens));
    for (auto& block : memory) {
      block.assign(layout.BlockBytes(), std::byte{0xff});  // NaN in every float type: what should not be read shows
      blocks.push_back(block.data());
    }
    const size_t dim = layout.head_dim;
    queries = Randoms(size_t{positions} * group * dim, 77, 3);
    const std::vector<float> keys = Randoms(positions * dim, 78, 2), values = Randoms(positions * dim, 79, 2);
    for (uint32_t p = 0; p < positions; ++p) {
      std::byte* part = blocks[p / layout.block_tokens];
      kernels.store_kv(&keys[p * dim], layout, part + layout.PartOffset(1, 0), 1, p % layout.block_tokens);
      kernels.store_kv(&values[p * dim], layout, part + layout.PartOffset(1, 1), 1, p % layout.block_tokens);
    }
  }
  std::vector<float> Attend(const Kernels& kernels, uint32_t start, uint32_t rows) const {
    const size_t width = size_t{group} * layout.head_dim;
    std::vector<float> out(rows * width), scratch(AttentionTask::ScratchFloats(layout, rows, group), NAN);
    kernels.attention({&queries[start * width], width, out.data(), width, rows, start, group, 1, 1, &layout, blocks.data(), scratch.data(), 0, start + rows, nullptr});
    return out;
  }
  /// The same through spans: pieces of `step` positions each, the last first, then every row merged.
  std::vector<float> AttendBySpans(const Kernels& kernels, uint32_t start, uint32_t rows, uint32_t step) const {
    const size_t width = size_t{group} * layout.head_dim;
    const uint32_t end = start + rows;
    std::vector<float> out(rows * width), scratch(AttentionTask::ScratchFloats(layout, rows, group), NAN);
    std::vector<float> spans(AttentionTask::SpanFloats(layout, rows, group, end), NAN);
    AttentionTask task{&queries[start * width], width, out.data(), width, rows, start, group, 1, 1, &layout, blocks.data(), scratch.data(), 0, 0, spans.data()};
    for (uint32_t begin = (end - 1) / step * step;; begin -= step) {
      task.begin = begin;
      task.end = std::min(begin + step, end);
      kernels.attention(task);
      if (begin == 0) break;
    }
    for (uint32_t row = rows; row-- > 0;) kernels.merge_spans(task, row);
    return out;
  }
  float Stored(uint32_t which, uint32_t position, uint32_t d) const {
    const std::byte* part = memory[position / layout.block_tokens].data() + layout.PartOffset(1, which);
    const uint32_t token = position % layout.block_tokens;
    const std::byte* at = part + layout.VectorOffset(1, token) + d * KvElementBytes(layout.dtype);
    if (layout.dtype == KvDtype::kInt8) {
      float scale;
      std::memcpy(&scale, part + layout.ScaleOffset(1, token), sizeof scale);
      return scale * static_cast<float>(static_cast<int8_t>(*at));
    }
    float value;
    uint16_t word;
    std::memcpy(&word, at, 2);
    if (layout.dtype == KvDtype::kF16) return F16ToF32(word);
    if (layout.dtype == KvDtype::kBf16) return Bf16ToF32(word);
    std::memcpy(&value, at, 4);
    return value;
  }
  double WorstError(const std::vector<float>& out) const {  // of all positions
    const uint32_t dim = layout.head_dim;
    double worst = 0;
    for (uint32_t p = 0; p < positions; ++p) {
      for (uint32_t g = 0; g < group; ++g) {
        const float* q = &queries[(size_t{p} * group + g) * dim];
        std::vector<double> weights(p + 1);
        double top = -1e300, total = 0;
        for (uint32_t j = 0; j <= p; ++j) {
          for (uint32_t d = 0; d < dim; ++d) weights[j] += double{q[d]} * Stored(0, j, d) / std::sqrt(static_cast<double>(dim));
          top = std::max(top, weights[j]);
        }
        for (double& weight : weights) total += weight = std::exp(weight - top);
        for (uint32_t d = 0; d < dim; ++d) {
          double sum = 0;
          for (uint32_t j = 0; j <= p; ++j) sum += weights[j] * Stored(1, j, d);
          worst = std::max(worst, std::fabs(sum / total - out[(size_t{p} * group + g) * dim + d]));
        }
      }
    }
    return worst;
  }
};

class EveryKvDtype : public testing::TestWithParam<KvDtype> {};
INSTANTIATE_TEST_SUITE_P(Kernels, EveryKvDtype, testing::Values(KvDtype::kF32, KvDtype::kF16, KvDtype::kBf16, KvDtype::kInt8),
                         [](const auto& info) { return std::string(KvDtypeName(info.param)); });

TEST_P(EveryKvDtype, AttentionIsNearTheReferenceAndTheSameOnEveryIsa) {
  struct Shape { uint32_t head_dim, group, block_tokens, positions; };
  for (const Shape& s : {Shape{64, 3, 64, 200}, Shape{6, 1, 16, 70}, Shape{80, 4, 7, 130}, Shape{128, 7, 32, 129}, Shape{2, 5, 64, 65}, Shape{40, 2, 100, 64},
                         Shape{64, 3, 128, 530}, Shape{16, 2, 48, 700}}) {
    const KvLayout layout{2, 2, s.head_dim, s.block_tokens, GetParam()};
    const Cache scalar(kScalarKernels, layout, s.positions, s.group);
    const std::vector<float> expected = scalar.Attend(kScalarKernels, 0, s.positions);
    EXPECT_LE(scalar.WorstError(expected), 5e-6) << s.head_dim;
    for (const Kernels* kernels : AvailableKernels()) {
      const Cache cache(*kernels, layout, s.positions, s.group);
      EXPECT_EQ(cache.memory, scalar.memory) << kernels->name << s.head_dim << ": stored otherwise";
      EXPECT_TRUE(SameBits(cache.Attend(*kernels, 0, s.positions), expected)) << kernels->name << s.head_dim;
    }
  }
}

TEST_P(EveryKvDtype, AQueryAttendsTheSameInAnyCompany) {
  for (const uint32_t group : {1u, 3u, 4u}) {
    for (const Kernels* kernels : AvailableKernels()) {
      const Cache cache(*kernels, {2, 2, 32, 16, GetParam()}, 150, group);
      const std::vector<float> all = cache.Attend(*kernels, 0, 150);
      const size_t width = group * 32;
      for (const auto& [start, rows] : std::vector<std::pair<uint32_t, uint32_t>>{{0, 1}, {63, 2}, {64, 1}, {100, 7}, {149, 1}, {120, 30}}) {
        EXPECT_TRUE(SameBits(cache.Attend(*kernels, start, rows), std::vector<float>(all.begin() + start * width, all.begin() + (start + rows) * width)))
            << kernels->name << start << "+" << rows;
      }
    }
  }
}

TEST_P(EveryKvDtype, SpansMayBeAttendedApartInAnyOrder) {
  struct Shape { uint32_t head_dim, group, block_tokens; };
  for (const Shape& s : {Shape{64, 3, 64}, Shape{128, 2, 128}, Shape{24, 7, 20}}) {
    for (const Kernels* kernels : AvailableKernels()) {
      const Cache cache(*kernels, {2, 2, s.head_dim, s.block_tokens, GetParam()}, 1100, s.group);
      for (const auto& [start, rows] : std::vector<std::pair<uint32_t, uint32_t>>{{0, 1}, {255, 1}, {256, 1}, {250, 12}, {767, 2}, {1023, 1}, {1060, 40}}) {
        const std::vector<float> whole = cache.Attend(*kernels, start, rows);
        for (const uint32_t step : {kAttentionSpan, 2 * kAttentionSpan, 5 * kAttentionSpan}) {
          EXPECT_TRUE(SameBits(cache.AttendBySpans(*kernels, start, rows, step), whole)) << kernels->name << s.head_dim << " " << start << "+" << rows << " by " << step;
        }
      }
    }
  }
}

TEST_P(EveryKvDtype, DecodedAndPrefilledRowsAgreeBehindALongContext) {
  for (const Kernels* kernels : AvailableKernels()) {  // one row reads the cache as it is stored, several widen it
    const Cache cache(*kernels, {2, 2, 64, 64, GetParam()}, 900, 3);
    const std::vector<float> all = cache.Attend(*kernels, 500, 400);
    for (uint32_t position = 500; position < 900; position += 37) {
      const auto row = all.begin() + (position - 500) * 192;
      EXPECT_TRUE(SameBits(cache.Attend(*kernels, position, 1), std::vector<float>(row, row + 192))) << kernels->name << position;
    }
  }
}

TEST(Kernels, WhatLiesBehindAQueryNeverReachesIt) {
  for (const Kernels* kernels : AvailableKernels()) {
    Cache cache(*kernels, {2, 2, 64, 64, KvDtype::kF16}, 300, 3);
    std::vector<std::vector<float>> before;
    for (const uint32_t position : {0u, 62u, 63u, 64u, 255u, 256u}) before.push_back(cache.Attend(*kernels, position, 1));
    std::vector<float> poison(64, NAN);
    size_t i = 0;
    for (const uint32_t position : {0u, 62u, 63u, 64u, 255u, 256u}) {
      Cache poisoned = cache;
      for (size_t b = 0; b < poisoned.memory.size(); ++b) poisoned.blocks[b] = poisoned.memory[b].data();
      for (uint32_t p = position + 1; p < 300; ++p) {
        std::byte* part = poisoned.blocks[p / 64];
        kernels->store_kv(poison.data(), poisoned.layout, part + poisoned.layout.PartOffset(1, 0), 1, p % 64);
        kernels->store_kv(poison.data(), poisoned.layout, part + poisoned.layout.PartOffset(1, 1), 1, p % 64);
      }
      EXPECT_TRUE(SameBits(poisoned.Attend(*kernels, position, 1), before[i++])) << kernels->name << position;
    }
  }
}

TEST(Kernels, ThePeakLoopDoesWhatItCounts) {
  for (const Kernels* kernels : AvailableKernels()) {
    int32_t none = -1, few = 0, more = 0;
    EXPECT_EQ(kernels->dot_peak(0, &none), 0u);
    const uint64_t counted = kernels->dot_peak(3, &few);
    EXPECT_EQ(counted % (3 * 64), 0u);
    EXPECT_EQ(kernels->dot_peak(9, &more), 3 * counted);
    EXPECT_EQ(more - none, 3 * (few - none)) << kernels->name << ": each round adds the same";
    EXPECT_NE(few, none);
  }
}

TEST(Kernels, SelectionNamesWhatItKnows) {
  EXPECT_EQ(SelectKernels("sse").status().code(), StatusCode::kInvalid);
  ASSERT_TRUE(SelectKernels("auto").ok());
  EXPECT_EQ((*SelectKernels("scalar"))->name, "scalar");
}

}  // namespace
}  // namespace baton
