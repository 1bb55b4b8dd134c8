// Encoding, as ggml's quantize_row_*_ref.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/quant.h"
#include "model/weights.h"

namespace baton {
namespace {

using quant::FloatToBf16;
using quant::FloatToHalf;

constexpr int kBlock = 32;

void StoreU16(uint16_t value, uint8_t* out) {
  out[0] = static_cast<uint8_t>(value & 255);
  out[1] = static_cast<uint8_t>(value >> 8);
}

/// 1/d, or 0 for an all-equal block.
float Inverse(float d) { return d == 0 ? 0 : 1.0f / d; }

/// Truncates to 0..max. A scale so small that its inverse is infinite gives NaN or infinity here:
/// those become 0 and max.
uint8_t Level(float value, int max) {
  if (!(value > 0)) return 0;
  return value >= static_cast<float>(max) ? static_cast<uint8_t>(max) : static_cast<uint8_t>(value);
}

/// The levels of a symmetric block whose largest magnitude maps to level 0; returns d. ggml
/// compiles x * id + offset to one FMA, and so do the reference bytes: in double the product is
/// exact and the sum is rounded once to f32.
float SymmetricLevels(const float* x, int bits, uint8_t* levels) {
  float largest = 0, magnitude = 0;
  for (int i = 0; i < kBlock; ++i) {
    if (std::fabs(x[i]) > magnitude) {
      magnitude = std::fabs(x[i]);
      largest = x[i];
    }
  }
  const int half = 1 << (bits - 1);
  const float d = largest / static_cast<float>(-half);
  const double id = Inverse(d);
  for (int i = 0; i < kBlock; ++i) {
    levels[i] = Level(static_cast<float>(double{x[i]} * id + (half + 0.5)), 2 * half - 1);
  }
  return d;
}

struct ScaleAndMin {
  float d, min;
};
ScaleAndMin AffineLevels(const float* x, int bits, uint8_t* levels) {
  const auto [min, max] = std::minmax_element(x, x + kBlock);
  const int top = (1 << bits) - 1;
  const float d = (*max - *min) / static_cast<float>(top);
  const float id = Inverse(d);
  for (int i = 0; i < kBlock; ++i) levels[i] = Level((x[i] - *min) * id + 0.5f, top);
  return {d, *min};
}

void PackNibbles(const uint8_t* levels, uint8_t* out) {
  for (int j = 0; j < 16; ++j)
    out[j] = static_cast<uint8_t>((levels[j] & 15) | ((levels[j + 16] & 15) << 4));
}

void PackFifthBits(const uint8_t* levels, uint8_t* out) {
  uint32_t high = 0;
  for (int i = 0; i < kBlock; ++i) high |= static_cast<uint32_t>(levels[i] >> 4) << i;
  std::memcpy(out, &high, sizeof high);
}

void EncodeQ4_0(const float* x, uint8_t* out) {
  uint8_t levels[kBlock];
  StoreU16(FloatToHalf(SymmetricLevels(x, 4, levels)), out);
  PackNibbles(levels, out + 2);
}

void EncodeQ4_1(const float* x, uint8_t* out) {
  uint8_t levels[kBlock];
  const ScaleAndMin block = AffineLevels(x, 4, levels);
  StoreU16(FloatToHalf(block.d), out);
  StoreU16(FloatToHalf(block.min), out + 2);
  PackNibbles(levels, out + 4);
}

void EncodeQ5_0(const float* x, uint8_t* out) {
  uint8_t levels[kBlock];
  StoreU16(FloatToHalf(SymmetricLevels(x, 5, levels)), out);
  PackFifthBits(levels, out + 2);
  PackNibbles(levels, out + 6);
}

void EncodeQ5_1(const float* x, uint8_t* out) {
  uint8_t levels[kBlock];
  const ScaleAndMin block = AffineLevels(x, 5, levels);
  StoreU16(FloatToHalf(block.d), out);
  StoreU16(FloatToHalf(block.min), out + 2);
  PackFifthBits(levels, out + 4);
  PackNibbles(levels, out + 8);
}

void EncodeQ8_0(const float* x, uint8_t* out) {
  float magnitude = 0;
  for (int i = 0; i < kBlock; ++i) magnitude = std::max(magnitude, std::fabs(x[i]));
  const float d = magnitude / 127.0f;
  const float id = Inverse(d);
  StoreU16(FloatToHalf(d), out);
  for (int i = 0; i < kBlock; ++i) {
    const float scaled = std::round(x[i] * id);
    const float level = std::isnan(scaled) ? 0 : std::clamp(scaled, -127.0f, 127.0f);
    out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(level));
  }
}

Status EncodeBlocks(TensorType type, const float* in, uint64_t n, uint8_t* out) {
  using Encoder = void (*)(const float*, uint8_t*);
  Encoder encode = nullptr;
  switch (type) {
    case TensorType::kQ4_0:
      encode = EncodeQ4_0;
      break;
    case TensorType::kQ4_1:
      encode = EncodeQ4_1;
      break;
    case TensorType::kQ5_0:
      encode = EncodeQ5_0;
      break;
    case TensorType::kQ5_1:
      encode = EncodeQ5_1;
      break;
    case TensorType::kQ8_0:
      encode = EncodeQ8_0;
      break;
    default:
      return InvalidError(
          "cannot quantise to {}; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 can be written",
          TensorTypeName(static_cast<uint32_t>(type)));
  }
  if (n % kBlock != 0)
    return InvalidError("{} elements are no multiple of the block of {}", n, kBlock);
  for (uint64_t i = 0; i < n; ++i) {
    if (!std::isfinite(in[i]))
      return InvalidError("element {} is not finite; a block has one scale for all", i);
  }
  const uint64_t bytes = FindTensorType(static_cast<uint32_t>(type))->block_bytes;
  for (uint64_t i = 0; i < n / kBlock; ++i) encode(in + i * kBlock, out + i * bytes);
  return OkStatus();
}

}  // namespace

Status Quantize(TensorType type, const float* in, uint64_t n, std::byte* data) {
  auto* out = reinterpret_cast<uint8_t*>(data);
  switch (type) {
    case TensorType::kF32:
      if (n != 0) std::memcpy(out, in, n * sizeof(float));
      return OkStatus();
    case TensorType::kF16:
      for (uint64_t i = 0; i < n; ++i) StoreU16(FloatToHalf(in[i]), out + 2 * i);
      return OkStatus();
    case TensorType::kBF16:
      for (uint64_t i = 0; i < n; ++i) StoreU16(FloatToBf16(in[i]), out + 2 * i);
      return OkStatus();
    default:
      return EncodeBlocks(type, in, n, out);
  }
}

}  // namespace baton
