// Decoding. Block forms are those of ggml-common.h; the comments give each block's bytes in order.
#include "model/quant.h"

#include <array>
#include <bit>
#include <cstring>

#include "model/weights.h"

namespace baton {
namespace quant {

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 31;
  const uint32_t mantissa = half & 0x3ff;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in f32
    const float magnitude = static_cast<float>(mantissa) * 0x1.0p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  if (exponent == 31) {
    const uint32_t quiet = mantissa == 0 ? 0 : 0x400000;
    return std::bit_cast<float>(sign | 0x7f800000 | quiet | (mantissa << 13));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t FloatToHalf(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000)
    return static_cast<uint16_t>(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
  if (magnitude >= 0x477ff000)
    return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and more round to infinity
  if (magnitude < 0x38800000) {                   // below 2^-14: subnormal or zero
    // Adding 0.5 leaves the value in units of 2^-24 in the low mantissa bits, rounded to nearest
    // even by the addition.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000));
  }
  const uint32_t odd = (magnitude >> 13) & 1;
  return static_cast<uint16_t>(sign | ((magnitude - (112u << 23) + 0xfff + odd) >> 13));
}

float Bf16ToFloat(uint16_t bf16) { return std::bit_cast<float>(static_cast<uint32_t>(bf16) << 16); }

uint16_t FloatToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 64);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace quant

namespace {

using quant::Bf16ToFloat;
using quant::HalfToFloat;

uint16_t LoadU16(const uint8_t* data) { return static_cast<uint16_t>(data[0] | (data[1] << 8)); }
uint32_t LoadU32(const uint8_t* data) {
  uint32_t value;
  std::memcpy(&value, data, sizeof value);
  return value;
}
float LoadHalf(const uint8_t* data) { return HalfToFloat(LoadU16(data)); }

// f16 d, qs[16]: low nibbles are elements 0..15, high nibbles 16..31.
void DecodeQ4_0(const uint8_t* in, float* out) {
  const float d = LoadHalf(in);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>((in[2 + j] & 15) - 8);
    out[j + 16] = d * static_cast<float>((in[2 + j] >> 4) - 8);
  }
}

// f16 d, f16 m, qs[16].
void DecodeQ4_1(const uint8_t* in, float* out) {
  const float d = LoadHalf(in), m = LoadHalf(in + 2);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(in[4 + j] & 15) + m;
    out[j + 16] = d * static_cast<float>(in[4 + j] >> 4) + m;
  }
}

/// Element i of a 5-bit block: its nibble with bit i of `high` on top.
int FiveBits(const uint8_t* nibbles, uint32_t high, int i) {
  const int low = i < 16 ? nibbles[i] & 15 : nibbles[i - 16] >> 4;
  return low | static_cast<int>(((high >> i) & 1) << 4);
}

// f16 d, u32 high bits, qs[16].
void DecodeQ5_0(const uint8_t* in, float* out) {
  const float d = LoadHalf(in);
  const uint32_t high = LoadU32(in + 2);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(FiveBits(in + 6, high, i) - 16);
}

// f16 d, f16 m, u32 high bits, qs[16].
void DecodeQ5_1(const uint8_t* in, float* out) {
  const float d = LoadHalf(in), m = LoadHalf(in + 2);
  const uint32_t high = LoadU32(in + 4);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(FiveBits(in + 8, high, i)) + m;
}

// f16 d, i8 qs[32].
void DecodeQ8_0(const uint8_t* in, float* out) {
  const float d = LoadHalf(in);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(in[2 + i]));
}

// f16 d, qs[16]: nibbles index a fixed non-linear table.
void DecodeIQ4_NL(const uint8_t* in, float* out) {
  static constexpr std::array<int8_t, 16> kValues = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                     1,    13,   25,  38,  53,  69,  89,  113};
  const float d = LoadHalf(in);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(kValues[in[2 + j] & 15]);
    out[j + 16] = d * static_cast<float>(kValues[in[2 + j] >> 4]);
  }
}

struct ScaleMin {
  uint8_t scale, min;
};
/// Group j (0..7) of the 12 bytes that hold eight 6-bit scales and eight 6-bit minima of Q4_K and
/// Q5_K.
ScaleMin UnpackScaleMin(const uint8_t* s, int j) {
  if (j < 4) return {static_cast<uint8_t>(s[j] & 63), static_cast<uint8_t>(s[j + 4] & 63)};
  return {static_cast<uint8_t>((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4)),
          static_cast<uint8_t>((s[j + 4] >> 4) | ((s[j] >> 6) << 4))};
}

// f16 d, f16 dmin, scales[12], qs[128]: 32 bytes hold groups 2c (low nibbles) and 2c+1 (high
// nibbles).
void DecodeQ4_K(const uint8_t* in, float* out) {
  const float d = LoadHalf(in), dmin = LoadHalf(in + 2);
  for (int group = 0; group < 8; ++group) {
    const ScaleMin sm = UnpackScaleMin(in + 4, group);
    const float scale = d * static_cast<float>(sm.scale), min = dmin * static_cast<float>(sm.min);
    const uint8_t* q = in + 16 + 32 * (group / 2);
    const int shift = 4 * (group % 2);
    for (int l = 0; l < 32; ++l) *out++ = scale * static_cast<float>((q[l] >> shift) & 15) - min;
  }
}

// f16 d, f16 dmin, scales[12], qh[32], qs[128]: bit `group` of qh[l] is the fifth bit of element l
// of that group.
void DecodeQ5_K(const uint8_t* in, float* out) {
  const float d = LoadHalf(in), dmin = LoadHalf(in + 2);
  const uint8_t* high = in + 16;
  for (int group = 0; group < 8; ++group) {
    const ScaleMin sm = UnpackScaleMin(in + 4, group);
    const float scale = d * static_cast<float>(sm.scale), min = dmin * static_cast<float>(sm.min);
    const uint8_t* q = in + 48 + 32 * (group / 2);
    const int shift = 4 * (group % 2);
    for (int l = 0; l < 32; ++l) {
      const int value = ((q[l] >> shift) & 15) | (((high[l] >> group) & 1) << 4);
      *out++ = scale * static_cast<float>(value) - min;
    }
  }
}

// ql[128], qh[64], i8 scales[16], f16 d.
void DecodeQ6_K(const uint8_t* in, float* out) {
  const float d = LoadHalf(in + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, quarter = (i % 128) / 32, l = i % 32;
    const uint8_t low = in[64 * half + 32 * (quarter % 2) + l];
    const uint8_t high = in[128 + 32 * half + l];
    const int value = ((low >> (4 * (quarter / 2))) & 15) | (((high >> (2 * quarter)) & 3) << 4);
    const float scale = d * static_cast<float>(static_cast<int8_t>(in[192 + i / 16]));
    out[i] = scale * static_cast<float>(value - 32);
  }
}

template <void (*Decode)(const uint8_t*, float*), uint64_t kElements, uint64_t kBytes>
void DecodeBlocks(const uint8_t* in, uint64_t n, float* out) {
  for (uint64_t i = 0; i < n / kElements; ++i) Decode(in + i * kBytes, out + i * kElements);
}

}  // namespace

void Dequantize(TensorType type, const std::byte* data, uint64_t n, float* out) {
  const auto* in = reinterpret_cast<const uint8_t*>(data);
  switch (type) {
    case TensorType::kF32:
      if (n != 0) std::memcpy(out, in, n * sizeof(float));
      return;
    case TensorType::kF16:
      for (uint64_t i = 0; i < n; ++i) out[i] = LoadHalf(in + 2 * i);
      return;
    case TensorType::kBF16:
      for (uint64_t i = 0; i < n; ++i) out[i] = Bf16ToFloat(LoadU16(in + 2 * i));
      return;
    case TensorType::kQ4_0:
      return DecodeBlocks<DecodeQ4_0, 32, 18>(in, n, out);
    case TensorType::kQ4_1:
      return DecodeBlocks<DecodeQ4_1, 32, 20>(in, n, out);
    case TensorType::kQ5_0:
      return DecodeBlocks<DecodeQ5_0, 32, 22>(in, n, out);
    case TensorType::kQ5_1:
      return DecodeBlocks<DecodeQ5_1, 32, 24>(in, n, out);
    case TensorType::kQ8_0:
      return DecodeBlocks<DecodeQ8_0, 32, 34>(in, n, out);
    case TensorType::kQ4_K:
      return DecodeBlocks<DecodeQ4_K, 256, 144>(in, n, out);
    case TensorType::kQ5_K:
      return DecodeBlocks<DecodeQ5_K, 256, 176>(in, n, out);
    case TensorType::kQ6_K:
      return DecodeBlocks<DecodeQ6_K, 256, 210>(in, n, out);
    case TensorType::kIQ4_NL:
      return DecodeBlocks<DecodeIQ4_NL, 32, 18>(in, n, out);
  }
  CheckFailed("type is one of TensorType", __FILE__, __LINE__);
}

}  // namespace baton
