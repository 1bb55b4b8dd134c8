// The kernels' text, compiled once an instruction set (included by kernels_*.cc only). Same operations in the same order
// everywhere: loops over 16 lanes become vectors where there are some.
#include <algorithm>
#include <cmath>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "model/kernels/half.h"
#include "model/kernels/kernels.h"

namespace baton {
namespace {

constexpr uint32_t kLanes = 16;

inline float Fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

/// e^x to about 1 ulp for x in [-87, 88]; 0 below, never infinite above (x is clamped at 88).
inline float Exp(float x) {
  const float clamped = std::min(std::max(x, -87.0f), 88.0f);
  const float shifted = Fma(clamped, 1.44269504088896341f, 12582912.0f);  // rounds to an integer in the low mantissa bits
  const float n = shifted - 12582912.0f;
  float r = Fma(n, -0.693359375f, clamped);
  r = Fma(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = Fma(p, r, 1.3981999507e-3f);
  p = Fma(p, r, 8.3334519073e-3f);
  p = Fma(p, r, 4.1665795894e-2f);
  p = Fma(p, r, 1.6666665459e-1f);
  p = Fma(p, r, 5.0000001201e-1f);
  p = Fma(p, r * r, r) + 1.0f;
  const uint32_t power = (static_cast<uint32_t>(static_cast<int32_t>(n)) + 127u) << 23;
  return x < -87.0f ? 0.0f : p * std::bit_cast<float>(power);
}

/// The fixed tree: halves are added until one is left.
inline float SumLanes(float* lanes) {
  for (uint32_t half = kLanes / 2; half > 0; half /= 2) {
    for (uint32_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

/// n is a multiple of 16.
inline float Dot(const float* a, const float* b, uint32_t n) {
  alignas(64) float lanes[kLanes] = {};
  for (uint32_t k = 0; k < n; k += kLanes) {
    for (uint32_t i = 0; i < kLanes; ++i) lanes[i] = Fma(a[k + i], b[k + i], lanes[i]);
  }
  return SumLanes(lanes);
}

void QuantiseRow(const float* x, uint32_t cols, bool one_digit, size_t row, QuantRows& out) {
  const size_t blocks = cols / kBlock;
  for (size_t b = 0; b < blocks; ++b) {
    const float* in = x + b * kBlock;
    int8_t* high = out.high.data() + row * cols + b * kBlock;
    int8_t* low = out.low.data() + row * cols + b * kBlock;
    float largest = 0;
    for (uint32_t k = 0; k < kBlock; ++k) largest = std::max(largest, std::fabs(in[k]));
    const float steps = one_digit ? 127.0f : 32512.0f;  // 127 * 256
    const float inverse = largest > 0 ? steps / largest : 0.0f;
    int32_t sum = 0;
    for (uint32_t k = 0; k < kBlock; ++k) {
      const float rounded = Fma(in[k], inverse, 12582912.0f) - 12582912.0f;
      const int32_t t = static_cast<int32_t>(std::min(std::max(rounded, -steps), steps)) * (one_digit ? 256 : 1);
      const int32_t h = (t + 128) >> 8;
      high[k] = static_cast<int8_t>(h);
      low[k] = static_cast<int8_t>(t - h * 256);
      sum += t;
    }
    out.scale[row * blocks + b] = one_digit ? largest / 32512.0f : largest / steps;
    out.sum[row * blocks + b] = sum;
  }
}

/// Exact integer dots of one block of 16 outputs with one activation row: Σ q * (256 * high + low).
inline void DotBlock(const uint8_t* q, const int8_t* high, const int8_t* low, int32_t* out) {
#if defined(__AVX512VNNI__)
  __m512i h = _mm512_setzero_si512(), l = _mm512_setzero_si512();
  for (uint32_t g = 0; g < kBlock / 4; ++g) {
    const __m512i w = _mm512_loadu_si512(q + g * 64);
    int32_t high4, low4;
    std::memcpy(&high4, high + g * 4, 4);
    std::memcpy(&low4, low + g * 4, 4);
    h = _mm512_dpbusd_epi32(h, w, _mm512_set1_epi32(high4));
    l = _mm512_dpbusd_epi32(l, w, _mm512_set1_epi32(low4));
  }
  _mm512_storeu_si512(out, _mm512_add_epi32(_mm512_slli_epi32(h, 8), l));
#else
  for (uint32_t i = 0; i < kTileRows; ++i) out[i] = 0;
  for (uint32_t g = 0; g < kBlock / 4; ++g) {
    for (uint32_t i = 0; i < kTileRows; ++i) {
      for (uint32_t j = 0; j < 4; ++j) out[i] += int32_t{q[g * 64 + i * 4 + j]} * (int32_t{high[g * 4 + j]} * 256 + low[g * 4 + j]);
    }
  }
#endif
}

void MatmulInt(const PackedMatrix& m, const QuantRows& x, uint32_t rows, float* out, size_t out_stride, uint32_t tile_begin, uint32_t tile_end) {
  constexpr uint32_t kRowBlock = 8;
  const uint32_t blocks = m.blocks();
  alignas(64) float acc[kRowBlock][kTileRows];
  alignas(64) int32_t dots[kTileRows];
  for (uint32_t tile = tile_begin; tile < tile_end; ++tile) {
    const uint32_t live = std::min(kTileRows, m.rows - tile * kTileRows);
    for (uint32_t first = 0; first < rows; first += kRowBlock) {
      const uint32_t count = std::min(kRowBlock, rows - first);
      std::memset(acc, 0, sizeof acc);
      for (uint32_t b = 0; b < blocks; ++b) {
        const size_t at = size_t{tile} * blocks + b;
        const float* scale = m.scale.data() + at * kTileRows;
        const float* min = m.min.empty() ? nullptr : m.min.data() + at * kTileRows;
        for (uint32_t r = 0; r < count; ++r) {
          const size_t row = first + r;
          DotBlock(m.q.data() + at * kBlock * kTileRows, x.high.data() + row * m.cols + b * kBlock, x.low.data() + row * m.cols + b * kBlock, dots);
          const float xs = x.scale[row * blocks + b];
          const int32_t correction = m.zero * x.sum[row * blocks + b];
          for (uint32_t i = 0; i < kTileRows; ++i) acc[r][i] = Fma(scale[i] * xs, static_cast<float>(dots[i] - correction), acc[r][i]);
          if (min == nullptr) continue;
          const float total = xs * static_cast<float>(x.sum[row * blocks + b]);
          for (uint32_t i = 0; i < kTileRows; ++i) acc[r][i] = Fma(min[i], total, acc[r][i]);
        }
      }
      for (uint32_t r = 0; r < count; ++r) std::memcpy(out + (first + r) * out_stride + tile * kTileRows, acc[r], live * sizeof(float));
    }
  }
}

void MatmulF32(const PackedMatrix& m, const float* x, uint32_t rows, float* out, size_t out_stride, uint32_t tile_begin, uint32_t tile_end) {
  constexpr uint32_t kRowBlock = 8;
  alignas(64) float acc[kRowBlock][kTileRows];
  for (uint32_t tile = tile_begin; tile < tile_end; ++tile) {
    const uint32_t live = std::min(kTileRows, m.rows - tile * kTileRows);
    const float* w = m.f.data() + size_t{tile} * m.cols * kTileRows;
    for (uint32_t first = 0; first < rows; first += kRowBlock) {
      const uint32_t count = std::min(kRowBlock, rows - first);
      std::memset(acc, 0, sizeof acc);
      for (uint32_t k = 0; k < m.cols; ++k) {
        for (uint32_t r = 0; r < count; ++r) {
          const float value = x[size_t{first + r} * m.cols + k];
          for (uint32_t i = 0; i < kTileRows; ++i) acc[r][i] = Fma(w[size_t{k} * kTileRows + i], value, acc[r][i]);
        }
      }
      for (uint32_t r = 0; r < count; ++r) std::memcpy(out + (first + r) * out_stride + tile * kTileRows, acc[r], live * sizeof(float));
    }
  }
}

void RmsNorm(const float* x, const float* weight, uint32_t n, float eps, float* out) {
  alignas(64) float lanes[kLanes] = {};
  uint32_t k = 0;
  for (; k + kLanes <= n; k += kLanes) {
    for (uint32_t i = 0; i < kLanes; ++i) lanes[i] = Fma(x[k + i], x[k + i], lanes[i]);
  }
  for (; k < n; ++k) lanes[k % kLanes] = Fma(x[k], x[k], lanes[k % kLanes]);
  const float inverse = 1.0f / std::sqrt(SumLanes(lanes) / static_cast<float>(n) + eps);
  for (uint32_t i = 0; i < n; ++i) out[i] = x[i] * inverse * weight[i];
}

void SiluMul(float* gate, const float* up, size_t n) {
  for (size_t i = 0; i < n; ++i) gate[i] = gate[i] / (1.0f + Exp(-gate[i])) * up[i];
}

void LoadHalf(const std::byte* in, uint32_t n, float* out) {
  uint32_t d = 0;
#if defined(__F16C__)
  for (; d + 8 <= n; d += 8) _mm256_storeu_ps(out + d, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 2 * d))));
#endif
  for (; d < n; ++d) {
    uint16_t h;
    std::memcpy(&h, in + 2 * d, 2);
    out[d] = F16ToF32(h);
  }
}

/// One vector as stored, as f32.
void LoadKv(const KvLayout& layout, const std::byte* part, uint32_t head, uint32_t token, float* out) {
  const std::byte* in = part + layout.VectorOffset(head, token);
  const uint32_t n = layout.head_dim;
  if (layout.dtype == KvDtype::kF16) return LoadHalf(in, n, out);
  if (layout.dtype == KvDtype::kF32) {
    std::memcpy(out, in, n * sizeof(float));
  } else if (layout.dtype == KvDtype::kBf16) {
    for (uint32_t d = 0; d < n; ++d) {
      uint16_t b;
      std::memcpy(&b, in + 2 * d, 2);
      out[d] = Bf16ToF32(b);
    }
  } else {
    float scale;
    std::memcpy(&scale, part + layout.ScaleOffset(head, token), sizeof scale);
    for (uint32_t d = 0; d < n; ++d) out[d] = scale * static_cast<float>(static_cast<int8_t>(in[d]));
  }
}

void StoreKv(const float* vector, const KvLayout& layout, std::byte* part, uint32_t head, uint32_t token) {
  std::byte* out = part + layout.VectorOffset(head, token);
  const uint32_t n = layout.head_dim;
  if (layout.dtype == KvDtype::kF32) {
    std::memcpy(out, vector, n * sizeof(float));
  } else if (layout.dtype == KvDtype::kInt8) {
    float largest = 0;
    for (uint32_t d = 0; d < n; ++d) largest = std::max(largest, std::fabs(vector[d]));
    const float scale = largest / 127.0f, inverse = largest > 0 ? 127.0f / largest : 0.0f;
    for (uint32_t d = 0; d < n; ++d) {
      const float rounded = Fma(vector[d], inverse, 12582912.0f) - 12582912.0f;
      out[d] = static_cast<std::byte>(static_cast<int8_t>(std::min(std::max(rounded, -127.0f), 127.0f)));
    }
    std::memcpy(part + layout.ScaleOffset(head, token), &scale, sizeof scale);
  } else {
    for (uint32_t d = 0; d < n; ++d) {
      const uint16_t h = layout.dtype == KvDtype::kF16 ? F32ToF16(vector[d]) : F32ToBf16(vector[d]);
      std::memcpy(out + 2 * d, &h, 2);
    }
  }
}

/// Running softmax of one query row of one head.
struct RowState {
  float max = -INFINITY, sum = 0;
};

/// One tile for one query: `valid` of its positions are visible.
void AttendTile(const float* q, const float* keys, const float* values, uint32_t valid, uint32_t dim, float scale, RowState& state, float* acc) {
  alignas(64) float p[kAttentionTile];
  float top = state.max;
  for (uint32_t j = 0; j < valid; ++j) {
    p[j] = Dot(q, keys + j * dim, dim) * scale;
    top = std::max(top, p[j]);
  }
  for (uint32_t j = 0; j < valid; ++j) p[j] = Exp(p[j] - top);
  for (uint32_t j = valid; j < kAttentionTile; ++j) p[j] = 0;
  const float correction = state.max == -INFINITY ? 0.0f : Exp(state.max - top);
  alignas(64) float lanes[kLanes] = {};
  for (uint32_t j = 0; j < kAttentionTile; j += kLanes) {
    for (uint32_t i = 0; i < kLanes; ++i) lanes[i] += p[j + i];
  }
  state.sum = Fma(state.sum, correction, SumLanes(lanes));
  state.max = top;
  for (uint32_t d = 0; d < dim; ++d) acc[d] *= correction;
  for (uint32_t j = 0; j < valid; ++j) {
    for (uint32_t d = 0; d < dim; ++d) acc[d] = Fma(p[j], values[j * dim + d], acc[d]);
  }
}

void Attention(const AttentionTask& t) {
  const KvLayout& layout = *t.layout;
  const uint32_t dim = static_cast<uint32_t>(RoundUp(layout.head_dim, kLanes)), head_dim = layout.head_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  std::vector<float> keys(kAttentionTile * dim, 0.0f), values(kAttentionTile * dim, 0.0f);
  const size_t queries = size_t{t.rows} * t.group;
  std::vector<float> q(queries * dim, 0.0f), acc(queries * dim, 0.0f);
  std::vector<RowState> states(queries);
  for (size_t i = 0; i < queries; ++i) {
    std::memcpy(&q[i * dim], t.q + (i / t.group) * t.q_stride + (i % t.group) * head_dim, head_dim * sizeof(float));
  }
  const uint32_t end = t.start + t.rows;
  for (uint32_t base = 0; base < end; base += kAttentionTile) {
    const uint32_t present = std::min(kAttentionTile, end - base);
    for (uint32_t j = 0; j < present; ++j) {
      const uint32_t position = base + j, token = position % layout.block_tokens;
      const std::byte* block = t.blocks[position / layout.block_tokens];
      LoadKv(layout, block + layout.PartOffset(t.layer, 0), t.kv_head, token, &keys[j * dim]);
      LoadKv(layout, block + layout.PartOffset(t.layer, 1), t.kv_head, token, &values[j * dim]);
    }
    for (size_t i = 0; i < queries; ++i) {
      const uint32_t position = t.start + static_cast<uint32_t>(i / t.group);
      if (position < base) continue;
      AttendTile(&q[i * dim], keys.data(), values.data(), std::min(present, position - base + 1), dim, scale, states[i], &acc[i * dim]);
    }
  }
  for (size_t i = 0; i < queries; ++i) {
    float* out = t.out + (i / t.group) * t.q_stride + (i % t.group) * head_dim;
    const float inverse = 1.0f / states[i].sum;
    for (uint32_t d = 0; d < head_dim; ++d) out[d] = acc[i * dim + d] * inverse;
  }
}

constexpr Kernels MakeKernels(std::string_view name) {
  return {name, MatmulInt, MatmulF32, QuantiseRow, RmsNorm, SiluMul, Attention, StoreKv};
}

}  // namespace
}  // namespace baton
