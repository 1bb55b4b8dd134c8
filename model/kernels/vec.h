// Vectors of 16 lanes, the kernels' one vocabulary: a zmm register, two ymm registers or a plain array, whichever this
// unit is compiled for. Each operation is correctly rounded and lane-wise, or a fixed tree (SumLanes, MaxLanes), so the
// same expression gives the same bits on all three. Private to the kernels_*.cc units: everything is in an unnamed
// namespace, and no template of the standard library that the linker could share with other units is used.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "model/kernels/half.h"

#define BATON_INLINE inline __attribute__((always_inline))
#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#define BATON_AVX512 1
#endif

namespace baton {
namespace {

constexpr uint32_t kLanes = 16;

#if defined(BATON_AVX512)
struct F32x16 { __m512 v; };
struct I32x16 { __m512i v; };
struct U8x64 { __m512i v; };

BATON_INLINE F32x16 Set1(float x) { return {_mm512_set1_ps(x)}; }
BATON_INLINE F32x16 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
BATON_INLINE void Store(F32x16 a, float* p) { _mm512_storeu_ps(p, a.v); }
BATON_INLINE F32x16 Add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
BATON_INLINE F32x16 Sub(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
BATON_INLINE F32x16 Mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
BATON_INLINE F32x16 Div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
BATON_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
BATON_INLINE F32x16 Min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
BATON_INLINE F32x16 Max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
BATON_INLINE F32x16 Abs(F32x16 a) { return {_mm512_abs_ps(a.v)}; }
/// a where x >= bound, 0 elsewhere.
BATON_INLINE F32x16 KeepWhereAtLeast(F32x16 a, F32x16 x, float bound) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(bound), _CMP_GE_OQ), a.v)};
}
/// The first n lanes of a, 0 in the rest.
BATON_INLINE F32x16 KeepFirst(F32x16 a, uint32_t n) {
  return {_mm512_maskz_mov_ps(static_cast<__mmask16>(n >= kLanes ? 0xffff : (1u << n) - 1), a.v)};
}
BATON_INLINE I32x16 Truncate(F32x16 a) { return {_mm512_cvttps_epi32(a.v)}; }
BATON_INLINE F32x16 ToFloat(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
BATON_INLINE I32x16 Set1(int32_t x) { return {_mm512_set1_epi32(x)}; }
BATON_INLINE I32x16 Add(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
BATON_INLINE I32x16 Sub(I32x16 a, I32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
template <int kBits>
BATON_INLINE I32x16 ShiftLeft(I32x16 a) { return {_mm512_slli_epi32(a.v, kBits)}; }
template <int kBits>
BATON_INLINE I32x16 ShiftRight(I32x16 a) { return {_mm512_srai_epi32(a.v, kBits)}; }
BATON_INLINE F32x16 AsFloat(I32x16 a) { return {_mm512_castsi512_ps(a.v)}; }
BATON_INLINE void StoreI32(I32x16 a, int32_t* p) { _mm512_storeu_si512(p, a.v); }
BATON_INLINE void StoreI16(I32x16 a, int16_t* p) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a.v)); }
BATON_INLINE void StoreI8(I32x16 a, int8_t* p) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v)); }
BATON_INLINE int32_t SumLanes(I32x16 a) { return _mm512_reduce_add_epi32(a.v); }
BATON_INLINE F32x16 LoadF16(const void* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))}; }
BATON_INLINE F32x16 LoadBf16(const void* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16))};
}
BATON_INLINE F32x16 LoadI8(const void* p) { return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))))}; }
BATON_INLINE void StoreF16(F32x16 a, void* p) { _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT)); }
BATON_INLINE void Prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
/// a, loaded once: the compiler may not fold the load into each of its uses.
BATON_INLINE F32x16 InRegister(F32x16 a) {
  __asm__("" : "+v"(a.v));
  return a;
}
/// a, of which the compiler knows nothing any more.
BATON_INLINE I32x16 Opaque(I32x16 a) {
  __asm__("" : "+v"(a.v));
  return a;
}

BATON_INLINE F32x16 Halves(F32x16 a) {  // lane i + lane i+8, in the low 8 lanes
  return {_mm512_add_ps(a.v, _mm512_shuffle_f32x4(a.v, a.v, 0x4e))};
}
BATON_INLINE float SumLanes(F32x16 a) {
  const __m256 eight = _mm512_castps512_ps256(Halves(a).v);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
BATON_INLINE float MaxLanes(F32x16 a) { return _mm512_reduce_max_ps(a.v); }

/// Lanes i, i + 8, then i + 4 of each vector added: four sums of a, then of b, c and d.
BATON_INLINE F32x16 SumFours(F32x16 a, F32x16 b, F32x16 c, F32x16 d) {
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x44), _mm512_shuffle_f32x4(a.v, b.v, 0xee));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c.v, d.v, 0x44), _mm512_shuffle_f32x4(c.v, d.v, 0xee));
  return {_mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd))};
}
/// Adds up what SumFours left, as SumLanes does: lane 4i + 0 is the sum of the i-th vector in a, 4i + 1 of that in b.
BATON_INLINE F32x16 SumOrdered(F32x16 a, F32x16 b, F32x16 c, F32x16 d) {
  const auto pairs = [](__m512 x, __m512 y) {
    const __m512d left = _mm512_castps_pd(x), right = _mm512_castps_pd(y);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(left, right)), _mm512_castpd_ps(_mm512_unpackhi_pd(left, right)));
  };
  const __m512 ab = pairs(a.v, b.v), cd = pairs(c.v, d.v);
  return {_mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x88), _mm512_shuffle_ps(ab, cd, 0xdd))};
}

#elif defined(__AVX2__)
struct F32x16 { __m256 a, b; };
struct I32x16 { __m256i a, b; };
struct U8x64 { __m256i a, b; };

BATON_INLINE F32x16 Set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
BATON_INLINE F32x16 Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
BATON_INLINE void Store(F32x16 x, float* p) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
BATON_INLINE F32x16 Add(F32x16 x, F32x16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
BATON_INLINE F32x16 Sub(F32x16 x, F32x16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
BATON_INLINE F32x16 Mul(F32x16 x, F32x16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
BATON_INLINE F32x16 Div(F32x16 x, F32x16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
BATON_INLINE F32x16 Fma(F32x16 x, F32x16 y, F32x16 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
BATON_INLINE F32x16 Min(F32x16 x, F32x16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
BATON_INLINE F32x16 Max(F32x16 x, F32x16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
BATON_INLINE F32x16 Abs(F32x16 x) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
BATON_INLINE F32x16 KeepWhereAtLeast(F32x16 y, F32x16 x, float bound) {
  const __m256 limit = _mm256_set1_ps(bound);
  return {_mm256_and_ps(y.a, _mm256_cmp_ps(x.a, limit, _CMP_GE_OQ)), _mm256_and_ps(y.b, _mm256_cmp_ps(x.b, limit, _CMP_GE_OQ))};
}
BATON_INLINE F32x16 KeepFirst(F32x16 x, uint32_t n) {
  const __m256i count = _mm256_set1_epi32(static_cast<int32_t>(n)), low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i high = _mm256_add_epi32(low, _mm256_set1_epi32(8));
  return {_mm256_and_ps(x.a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, low))),
          _mm256_and_ps(x.b, _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, high)))};
}
BATON_INLINE I32x16 Truncate(F32x16 x) { return {_mm256_cvttps_epi32(x.a), _mm256_cvttps_epi32(x.b)}; }
BATON_INLINE F32x16 ToFloat(I32x16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
BATON_INLINE I32x16 Set1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
BATON_INLINE I32x16 Add(I32x16 x, I32x16 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
BATON_INLINE I32x16 Sub(I32x16 x, I32x16 y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
template <int kBits>
BATON_INLINE I32x16 ShiftLeft(I32x16 x) { return {_mm256_slli_epi32(x.a, kBits), _mm256_slli_epi32(x.b, kBits)}; }
template <int kBits>
BATON_INLINE I32x16 ShiftRight(I32x16 x) { return {_mm256_srai_epi32(x.a, kBits), _mm256_srai_epi32(x.b, kBits)}; }
BATON_INLINE F32x16 AsFloat(I32x16 x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
BATON_INLINE void StoreI32(I32x16 x, int32_t* p) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
BATON_INLINE __m256i Pack16(I32x16 x) { return _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8); }
BATON_INLINE void StoreI16(I32x16 x, int16_t* p) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), Pack16(x)); }
BATON_INLINE void StoreI8(I32x16 x, int8_t* p) {
  const __m256i words = Pack16(x);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
BATON_INLINE int32_t SumLanes(I32x16 x) {
  int32_t lanes[kLanes], sum = 0;
  StoreI32(x, lanes);
  for (const int32_t lane : lanes) sum += lane;
  return sum;
}
BATON_INLINE F32x16 LoadF16(const void* p) {
  const auto* q = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
BATON_INLINE F32x16 LoadBf16(const void* p) {
  const auto* q = static_cast<const __m128i*>(p);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(q)), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1)), 16))};
}
BATON_INLINE F32x16 LoadI8(const void* p) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
BATON_INLINE void StoreF16(F32x16 x, void* p) {
  auto* q = static_cast<__m128i*>(p);
  _mm_storeu_si128(q, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(q + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
BATON_INLINE void Prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
BATON_INLINE F32x16 InRegister(F32x16 x) { return x; }
BATON_INLINE I32x16 Opaque(I32x16 x) {
  __asm__("" : "+x"(x.a), "+x"(x.b));
  return x;
}
BATON_INLINE float SumLanes(F32x16 x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
BATON_INLINE float MaxLanes(F32x16 x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

BATON_INLINE F32x16 SumFours(F32x16 a, F32x16 b, F32x16 c, F32x16 d) {
  const auto fold = [](F32x16 x, F32x16 y) {
    const __m256 left = _mm256_add_ps(x.a, x.b), right = _mm256_add_ps(y.a, y.b);
    return _mm256_add_ps(_mm256_permute2f128_ps(left, right, 0x20), _mm256_permute2f128_ps(left, right, 0x31));
  };
  return {fold(a, b), fold(c, d)};
}
BATON_INLINE F32x16 SumOrdered(F32x16 a, F32x16 b, F32x16 c, F32x16 d) {
  const auto pairs = [](__m256 x, __m256 y) {
    const __m256d left = _mm256_castps_pd(x), right = _mm256_castps_pd(y);
    return _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(left, right)), _mm256_castpd_ps(_mm256_unpackhi_pd(left, right)));
  };
  const auto sum = [](__m256 ab, __m256 cd) { return _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x88), _mm256_shuffle_ps(ab, cd, 0xdd)); };
  return {sum(pairs(a.a, b.a), pairs(c.a, d.a)), sum(pairs(a.b, b.b), pairs(c.b, d.b))};
}

#else
struct F32x16 { float v[kLanes]; };
struct I32x16 { int32_t v[kLanes]; };

template <typename Vector, typename Function>
BATON_INLINE Vector Each(Function function) {
  Vector out;
  for (uint32_t i = 0; i < kLanes; ++i) out.v[i] = function(i);
  return out;
}
BATON_INLINE F32x16 Set1(float x) { return Each<F32x16>([&](uint32_t) { return x; }); }
BATON_INLINE F32x16 Load(const float* p) { return Each<F32x16>([&](uint32_t i) { return p[i]; }); }
BATON_INLINE void Store(F32x16 a, float* p) { std::memcpy(p, a.v, sizeof a.v); }
BATON_INLINE F32x16 Add(F32x16 a, F32x16 b) { return Each<F32x16>([&](uint32_t i) { return a.v[i] + b.v[i]; }); }
BATON_INLINE F32x16 Sub(F32x16 a, F32x16 b) { return Each<F32x16>([&](uint32_t i) { return a.v[i] - b.v[i]; }); }
BATON_INLINE F32x16 Mul(F32x16 a, F32x16 b) { return Each<F32x16>([&](uint32_t i) { return a.v[i] * b.v[i]; }); }
BATON_INLINE F32x16 Div(F32x16 a, F32x16 b) { return Each<F32x16>([&](uint32_t i) { return a.v[i] / b.v[i]; }); }
BATON_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) { return Each<F32x16>([&](uint32_t i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); }); }
// As the processor's: the second operand where either is NaN.
BATON_INLINE F32x16 Min(F32x16 a, F32x16 b) { return Each<F32x16>([&](uint32_t i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
BATON_INLINE F32x16 Max(F32x16 a, F32x16 b) { return Each<F32x16>([&](uint32_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
BATON_INLINE F32x16 Abs(F32x16 a) { return Each<F32x16>([&](uint32_t i) { return __builtin_fabsf(a.v[i]); }); }
BATON_INLINE F32x16 KeepWhereAtLeast(F32x16 a, F32x16 x, float bound) {
  return Each<F32x16>([&](uint32_t i) { return x.v[i] >= bound ? a.v[i] : 0.0f; });
}
BATON_INLINE F32x16 KeepFirst(F32x16 a, uint32_t n) { return Each<F32x16>([&](uint32_t i) { return i < n ? a.v[i] : 0.0f; }); }
BATON_INLINE I32x16 Truncate(F32x16 a) {
  return Each<I32x16>([&](uint32_t i) { return a.v[i] > -2147483648.0f && a.v[i] < 2147483648.0f ? static_cast<int32_t>(a.v[i]) : INT32_MIN; });
}
BATON_INLINE F32x16 ToFloat(I32x16 a) { return Each<F32x16>([&](uint32_t i) { return static_cast<float>(a.v[i]); }); }
BATON_INLINE I32x16 Set1(int32_t x) { return Each<I32x16>([&](uint32_t) { return x; }); }
BATON_INLINE I32x16 Add(I32x16 a, I32x16 b) { return Each<I32x16>([&](uint32_t i) { return a.v[i] + b.v[i]; }); }
BATON_INLINE I32x16 Sub(I32x16 a, I32x16 b) { return Each<I32x16>([&](uint32_t i) { return a.v[i] - b.v[i]; }); }
template <int kBits>
BATON_INLINE I32x16 ShiftLeft(I32x16 a) { return Each<I32x16>([&](uint32_t i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << kBits); }); }
template <int kBits>
BATON_INLINE I32x16 ShiftRight(I32x16 a) { return Each<I32x16>([&](uint32_t i) { return a.v[i] >> kBits; }); }
BATON_INLINE F32x16 AsFloat(I32x16 a) {
  F32x16 out;
  std::memcpy(out.v, a.v, sizeof out.v);
  return out;
}
BATON_INLINE void StoreI32(I32x16 a, int32_t* p) { std::memcpy(p, a.v, sizeof a.v); }
BATON_INLINE void StoreI16(I32x16 a, int16_t* p) { for (uint32_t i = 0; i < kLanes; ++i) p[i] = static_cast<int16_t>(a.v[i]); }
BATON_INLINE void StoreI8(I32x16 a, int8_t* p) { for (uint32_t i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(a.v[i]); }
BATON_INLINE int32_t SumLanes(I32x16 a) {
  int32_t sum = 0;
  for (const int32_t lane : a.v) sum += lane;
  return sum;
}
BATON_INLINE uint16_t Word(const void* p, uint32_t i) {
  uint16_t word;
  std::memcpy(&word, static_cast<const char*>(p) + 2 * i, 2);
  return word;
}
BATON_INLINE F32x16 LoadF16(const void* p) { return Each<F32x16>([&](uint32_t i) { return F16ToF32(Word(p, i)); }); }
BATON_INLINE F32x16 LoadBf16(const void* p) { return Each<F32x16>([&](uint32_t i) { return Bf16ToF32(Word(p, i)); }); }
BATON_INLINE F32x16 LoadI8(const void* p) { return Each<F32x16>([&](uint32_t i) { return static_cast<float>(static_cast<const int8_t*>(p)[i]); }); }
BATON_INLINE void StoreF16(F32x16 a, void* p) {
  for (uint32_t i = 0; i < kLanes; ++i) {
    const uint16_t h = F32ToF16(a.v[i]);
    std::memcpy(static_cast<char*>(p) + 2 * i, &h, 2);
  }
}
BATON_INLINE void Prefetch(const void*) {}
BATON_INLINE F32x16 InRegister(F32x16 a) { return a; }
BATON_INLINE I32x16 Opaque(I32x16 a) {
  __asm__("" : "+m"(a));
  return a;
}
BATON_INLINE float SumLanes(F32x16 a) {
  for (uint32_t half = kLanes / 2; half > 0; half /= 2) {
    for (uint32_t i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  }
  return a.v[0];
}
BATON_INLINE F32x16 SumFours(F32x16 a, F32x16 b, F32x16 c, F32x16 d) {
  const F32x16* in[] = {&a, &b, &c, &d};
  return Each<F32x16>([&](uint32_t i) {
    const float* v = in[i / 4]->v + i % 4;
    return (v[0] + v[8]) + (v[4] + v[12]);
  });
}
BATON_INLINE F32x16 SumOrdered(F32x16 a, F32x16 b, F32x16 c, F32x16 d) {
  const F32x16* in[] = {&a, &b, &c, &d};
  return Each<F32x16>([&](uint32_t i) {
    const float* v = in[i % 4]->v + i / 4 * 4;
    return (v[0] + v[2]) + (v[1] + v[3]);
  });
}
BATON_INLINE float MaxLanes(F32x16 a) {
  for (uint32_t i = 1; i < kLanes; ++i) a.v[0] = a.v[i] > a.v[0] ? a.v[i] : a.v[0];
  return a.v[0];
}
#endif

BATON_INLINE F32x16 Zero() { return Set1(0.0f); }

/// The nearest integer, ties to even, for |a| < 2^22.
BATON_INLINE F32x16 Round(F32x16 a) { return Sub(Add(a, Set1(12582912.0f)), Set1(12582912.0f)); }

/// e^x to about 1 ulp for x in [-87, 88]; 0 below, e^88 above.
BATON_INLINE F32x16 Exp(F32x16 x) {
  const F32x16 clamped = Min(Max(x, Set1(-87.0f)), Set1(88.0f));
  const F32x16 n = Sub(Fma(clamped, Set1(1.44269504088896341f), Set1(12582912.0f)), Set1(12582912.0f));
  const F32x16 r = Fma(n, Set1(2.12194440e-4f), Fma(n, Set1(-0.693359375f), clamped));
  F32x16 p = Set1(1.9875691500e-4f);
  p = Fma(p, r, Set1(1.3981999507e-3f));
  p = Fma(p, r, Set1(8.3334519073e-3f));
  p = Fma(p, r, Set1(4.1665795894e-2f));
  p = Fma(p, r, Set1(1.6666665459e-1f));
  p = Fma(p, r, Set1(5.0000001201e-1f));
  p = Add(Fma(p, Mul(r, r), r), Set1(1.0f));
  const F32x16 power = AsFloat(ShiftLeft<23>(Add(Truncate(n), Set1(int32_t{127}))));
  return KeepWhereAtLeast(Mul(p, power), x, -87.0f);
}

}  // namespace
}  // namespace baton
