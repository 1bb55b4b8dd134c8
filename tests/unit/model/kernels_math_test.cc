// The arithmetic of the kernels over whole ranges of inputs: how far silu is from a computation in double, what the norm and the
// rotation keep, how a KV vector is rounded, and odd sizes of every matmul on every instruction set.
#include <bit>
#include <cmath>

#include "tests/unit/model/kernels_support.h"

namespace baton {
namespace {

float Silu(const Kernels& kernels, float x, float up = 1) {
  kernels.silu_mul(&x, &up, 1);
  return x;
}

/// Every 4,099th float, of both signs and all exponents.
std::vector<float> AllMagnitudes() {
  std::vector<float> values;
  for (uint64_t bits = 0; bits < 0x7F800000u; bits += 4099) {
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
    values.push_back(-values.back());
  }
  return values;
}

TEST(SiluAccuracy, IsWithinAFewUnitsOfDoubleArithmetic) {
  const std::vector<float> x = AllMagnitudes(), ones(x.size(), 1.0f);
  std::vector<float> expected = x;
  kScalarKernels.silu_mul(expected.data(), ones.data(), x.size());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = double{x[i]} / (1 + std::exp(-double{x[i]}));
    ASSERT_TRUE(std::isfinite(expected[i])) << x[i];
    if (std::fabs(exact) < 1e-30) {  // below -88 the exponential stays at its largest value
      EXPECT_NEAR(expected[i], exact, 1e-30 + 7e-39 * std::fabs(x[i])) << x[i];
    } else {
      worst = std::max(worst, std::fabs(expected[i] - exact) / std::fabs(exact));
    }
  }
  EXPECT_LT(worst, 5e-7) << "relative";
  for (const Kernels* kernels : AvailableKernels()) {
    std::vector<float> y = x;
    kernels->silu_mul(y.data(), ones.data(), y.size());
    EXPECT_TRUE(SameBits(y, expected)) << kernels->name;
  }
}

TEST(SiluAccuracy, KeepsWhatSiluKeeps) {
  for (const Kernels* kernels : AvailableKernels()) {
    float before = Silu(*kernels, -1.0f);  // it falls until about -1.278 and rises from there
    for (float x = -1.0f; x < 100; x += 0.0625f) {
      const float y = Silu(*kernels, x);
      EXPECT_GE(y, before) << kernels->name << " at " << x;
      EXPECT_NEAR(y - Silu(*kernels, -x), x, 4e-7f * std::fabs(x) + 1e-7f) << "silu(x) - silu(-x) = x at " << x;
      EXPECT_EQ(Silu(*kernels, x, 2), 2 * y) << "the factor is exact for powers of two";
      before = y;
    }
    EXPECT_EQ(Silu(*kernels, 0.0f), 0.0f);
    EXPECT_EQ(std::bit_cast<uint32_t>(Silu(*kernels, -0.0f)), 0x80000000u);
    EXPECT_TRUE(std::isnan(Silu(*kernels, NAN))) << "a fault upstream is never hidden";
  }
}

TEST(RmsNorm, ScaleZeroAndExtremes) {
  for (const Kernels* kernels : AvailableKernels()) {
    for (const uint32_t n : {1u, 3u, 16u, 31u, 64u, 577u}) {
      const std::vector<float> x = Randoms(n, n + 3, 2), ones(n, 1.0f), zeros(n, 0.0f);
      std::vector<float> out(n), scaled = x, again(n);
      kernels->rms_norm(x.data(), ones.data(), n, 0, out.data());
      double squares = 0;
      for (const float value : out) squares += double{value} * value;
      EXPECT_NEAR(squares / n, 1, 1e-5) << kernels->name << n;
      for (float& value : scaled) value *= 1024;  // a power of two: every product scales exactly
      kernels->rms_norm(scaled.data(), ones.data(), n, 0, again.data());
      EXPECT_TRUE(SameBits(out, again)) << kernels->name << n;
      kernels->rms_norm(zeros.data(), ones.data(), n, 1e-6f, again.data());
      EXPECT_EQ(again, zeros) << "epsilon keeps zeros finite";
      kernels->rms_norm(x.data(), zeros.data(), n, 1e-6f, again.data());
      for (const float value : again) EXPECT_EQ(value, 0.0f);
    }
  }
}

TEST(Rotation, KeepsLengthsAndComesBack) {
  for (const Kernels* kernels : AvailableKernels()) {
    for (const uint32_t half : {1u, 2u, 7u, 15u, 16u, 17u, 32u, 64u, 99u}) {
      const std::vector<float> v = Randoms(2 * half, half, 5);
      std::vector<float> cos(half), sin(half), back(half), turned = v;
      for (uint32_t j = 0; j < half; ++j) {
        cos[j] = static_cast<float>(std::cos(0.37 * j + 1));
        sin[j] = static_cast<float>(std::sin(0.37 * j + 1));
        back[j] = -sin[j];
      }
      kernels->rotate(turned.data(), cos.data(), sin.data(), half);
      for (uint32_t j = 0; j < half; ++j) EXPECT_NEAR(std::hypot(turned[j], turned[half + j]), std::hypot(v[j], v[half + j]), 3e-6) << kernels->name;
      kernels->rotate(turned.data(), cos.data(), back.data(), half);
      for (uint32_t j = 0; j < 2 * half; ++j) EXPECT_NEAR(turned[j], v[j], 4e-6) << kernels->name;
    }
  }
}

class KvStore : public testing::TestWithParam<KvDtype> {};
INSTANTIATE_TEST_SUITE_P(Kernels, KvStore, testing::Values(KvDtype::kF32, KvDtype::kF16, KvDtype::kBf16, KvDtype::kInt8),
                         [](const auto& info) { return std::string(KvDtypeName(info.param)); });

TEST_P(KvStore, WritesItsOwnPlaceInItsOwnRounding) {
  constexpr uint32_t kHeads = 3, kTokens = 5;
  for (const uint32_t dim : {2u, 6u, 16u, 30u, 64u, 80u}) {
    const KvLayout layout{1, kHeads, dim, kTokens, GetParam()};
    std::vector<float> vector = Randoms(dim, dim, 3);
    vector[0] = 1.0f + 0x1p-11f;  // half way between two f16: to even
    for (const Kernels* kernels : AvailableKernels()) {
      std::vector<std::byte> part(layout.PartBytes(), std::byte{0x5A});
      kernels->store_kv(vector.data(), layout, part.data(), 1, 3);
      const size_t begin = layout.VectorOffset(1, 3), end = begin + dim * KvElementBytes(layout.dtype);
      float largest = 0;
      for (const float value : vector) largest = std::max(largest, std::fabs(value));
      for (size_t i = 0; i < part.size(); ++i) {
        const bool scale = layout.dtype == KvDtype::kInt8 && i >= layout.ScaleOffset(1, 3) && i < layout.ScaleOffset(1, 3) + 4;
        const bool own = (i >= begin && i < end) || scale;
        EXPECT_TRUE(own || part[i] == std::byte{0x5A}) << kernels->name << " wrote byte " << i;
      }
      for (uint32_t d = 0; d < dim; ++d) {
        const std::byte* at = &part[begin + d * KvElementBytes(layout.dtype)];
        uint16_t word = 0;
        float whole = 0;
        if (layout.dtype == KvDtype::kF32) {
          std::memcpy(&whole, at, 4);
          EXPECT_EQ(whole, vector[d]);
        } else if (layout.dtype == KvDtype::kInt8) {
          std::memcpy(&whole, &part[layout.ScaleOffset(1, 3)], 4);
          EXPECT_NEAR(whole * static_cast<float>(static_cast<int8_t>(*at)), vector[d], 0.5001f * largest / 127) << kernels->name;
        } else {
          std::memcpy(&word, at, 2);
          EXPECT_EQ(word, layout.dtype == KvDtype::kF16 ? F32ToF16(vector[d]) : F32ToBf16(vector[d])) << kernels->name << d;
        }
      }
    }
  }
}

TEST_P(KvStore, ZerosStayZeros) {
  const KvLayout layout{1, 1, 24, 2, GetParam()};
  const std::vector<float> zeros(24, 0.0f);
  for (const Kernels* kernels : AvailableKernels()) {
    std::vector<std::byte> part(layout.PartBytes(), std::byte{0xFF});
    kernels->store_kv(zeros.data(), layout, part.data(), 0, 1);
    for (size_t i = layout.VectorOffset(0, 1); i < layout.VectorOffset(0, 1) + 24 * KvElementBytes(layout.dtype); ++i) EXPECT_EQ(part[i], std::byte{0}) << kernels->name;
    if (layout.dtype == KvDtype::kInt8) {
      float scale = -1;
      std::memcpy(&scale, &part[layout.ScaleOffset(0, 1)], 4);
      EXPECT_TRUE(std::isfinite(scale)) << "0 / 0 would make the whole vector NaN";
    }
  }
}

class OddMatmul : public testing::TestWithParam<TensorType> {};
INSTANTIATE_TEST_SUITE_P(Kernels, OddMatmul, testing::ValuesIn(kTensorTypes),
                         [](const auto& info) { return std::string(FindTensorType(static_cast<uint32_t>(info.param))->name); });

/// Outputs and rows around the tile's and the vectors' edges; inputs of one block and of odd numbers of blocks.
TEST_P(OddMatmul, IsTheSameOnEveryIsaAtEveryEdge) {
  const uint32_t unit = std::max(kBlock, FindTensorType(static_cast<uint32_t>(GetParam()))->block_elements);
  for (const uint32_t cols : {unit, 3 * unit, 5 * unit}) {
    for (const uint32_t outputs : {1u, 15u, 16u, 17u, 33u}) {
      const RandomTensor weights(GetParam(), outputs, cols, outputs + cols);
      for (const uint32_t rows : {1u, 2u, 5u, 8u, 9u, 17u}) {
        const std::vector<float> x = Randoms(size_t{rows} * cols, rows, 2);
        for (const PackRoute route : {PackRoute::kInteger, PackRoute::kFloat, PackRoute::kRoundToBf16}) {
          const Packed packed(weights.tensor, route);
          for (const bool one_digit : {false, true}) {
            if (one_digit && !IsInteger(packed.matrix.form)) continue;
            const std::vector<float> expected = Multiply(kScalarKernels, packed.matrix, x, rows, one_digit);
            for (const Kernels* kernels : AvailableKernels()) {
              ASSERT_TRUE(SameBits(expected, Multiply(*kernels, packed.matrix, x, rows, one_digit)))
                  << kernels->name << " " << outputs << "x" << cols << ", " << rows << " rows, route " << static_cast<int>(route) << ", one digit " << one_digit;
            }
          }
        }
      }
    }
  }
}

/// A unit vector picks a column: what comes out is that column as the embedding would read it, up to the digits of x.
TEST_P(OddMatmul, AUnitVectorPicksItsColumn) {
  const uint32_t cols = std::max(kBlock, FindTensorType(static_cast<uint32_t>(GetParam()))->block_elements);
  const RandomTensor weights(GetParam(), 19, cols, 5);
  for (const PackRoute route : {PackRoute::kInteger, PackRoute::kFloat}) {
    const Packed packed(weights.tensor, route);
    for (const uint32_t k : {0u, 1u, 15u, 16u, cols - 1}) {
      std::vector<float> x(cols, 0.0f);
      x[k] = 1;
      const std::vector<float> out = Multiply(kScalarKernels, packed.matrix, x, 1, false);
      for (uint32_t o = 0; o < 19; ++o) EXPECT_NEAR(out[o], weights.Row(o)[k], 1e-5f * std::fabs(weights.Row(o)[k]) + 1e-6f) << o << " at " << k;
    }
  }
}

}  // namespace
}  // namespace baton
