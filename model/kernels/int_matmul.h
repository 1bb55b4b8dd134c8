// Quantised weights times integer activations. Included by the kernels_*.cc units only.
//
// A block's dot is an exact integer; then acc = fma(scale * x_scale, dot, acc) and, where the form has minima,
// acc = fma(min, x_total, acc), blocks in ascending order. That is all that decides an output's bits, and it is the same
// for any number of rows at once. Up to 8 activation rows share one unpacking of the weights.
#pragma once

#include "model/kernels/kernels.h"
#include "model/kernels/vec.h"

namespace baton {
namespace {

constexpr uint32_t kRowGroup = 8;    // rows whose records lie side by side
constexpr uint32_t kGroups = 8;      // of 4 inputs in a block
constexpr uint32_t kRowsInCache = 64;  // rows that sweep over all tiles together: at most 64 x 48 x 80 bytes, well within L2

/// What precedes the digits of 32 activations.
struct QuantHeader {
  float scale, total;          // total = scale * Σt
  int32_t sum[2];              // Σt of each half
};
static_assert(sizeof(QuantHeader) == 16);

#if defined(BATON_AVX512)
// Digits: 32 high bytes, then (two digits) 32 low bytes; t = high * 256 + low, or t = high.
template <bool kOneDigit>
constexpr uint32_t kDigitBytes = kOneDigit ? 32 : 64;

template <bool kOneDigit>
BATON_INLINE void StoreDigits(I32x16 first, I32x16 second, std::byte* out) {
  auto* p = reinterpret_cast<int8_t*>(out);
  if constexpr (kOneDigit) {
    StoreI8(first, p), StoreI8(second, p + 16);
  } else {
    const I32x16 a = ShiftRight<8>(Add(first, Set1(int32_t{128}))), b = ShiftRight<8>(Add(second, Set1(int32_t{128})));
    StoreI8(a, p), StoreI8(b, p + 16);
    StoreI8(Sub(first, ShiftLeft<8>(a)), p + 32), StoreI8(Sub(second, ShiftLeft<8>(b)), p + 48);
  }
}
BATON_INLINE U8x64 LoadU8(const std::byte* p) { return {_mm512_loadu_si512(p)}; }
BATON_INLINE U8x64 LowNibbles(U8x64 x) { return {_mm512_and_si512(x.v, _mm512_set1_epi8(15))}; }
BATON_INLINE U8x64 HighNibbles(U8x64 x) { return {_mm512_and_si512(_mm512_srli_epi16(x.v, 4), _mm512_set1_epi8(15))}; }
BATON_INLINE U8x64 Iq4Lookup(U8x64 x) {
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kIq4Table))), x.v)};
}
BATON_INLINE __m512i Broadcast4(const std::byte* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}
BATON_INLINE I32x16 DotOnce(U8x64 w, const std::byte* digits, I32x16 sum) { return {_mm512_dpbusd_epi32(sum.v, w.v, Broadcast4(digits))}; }
/// init + Σ w * t over the groups [kFirst, kFirst + kCount).
template <bool kOneDigit, uint32_t kFirst, uint32_t kCount>
BATON_INLINE I32x16 Dots(const U8x64 (&w)[kGroups], const std::byte* digits, I32x16 init) {
  if constexpr (kOneDigit) {
    __m512i sum = init.v;
#pragma GCC unroll 8
    for (uint32_t g = kFirst; g < kFirst + kCount; ++g) sum = _mm512_dpbusd_epi32(sum, w[g].v, Broadcast4(digits + 4 * g));
    return {sum};
  } else {
    __m512i high = _mm512_setzero_si512(), low = init.v;
#pragma GCC unroll 8
    for (uint32_t g = kFirst; g < kFirst + kCount; ++g) {
      high = _mm512_dpbusd_epi32(high, w[g].v, Broadcast4(digits + 4 * g));
      low = _mm512_dpbusd_epi32(low, w[g].v, Broadcast4(digits + 32 + 4 * g));
    }
    return {_mm512_add_epi32(_mm512_slli_epi32(high, 8), low)};
  }
}


#else
// Digits: 32 x i16 t; with AVX2 each four in the order 0 2 1 3, the order in which even and odd bytes meet them.
template <bool kOneDigit>
constexpr uint32_t kDigitBytes = 64;


#if defined(__AVX2__)
BATON_INLINE void StoreShuffled(I32x16 t, std::byte* out) {
  const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_shuffle_epi8(Pack16(t), order));
}
template <bool kOneDigit>
BATON_INLINE void StoreDigits(I32x16 first, I32x16 second, std::byte* out) {
  StoreShuffled(first, out), StoreShuffled(second, out + 32);
}
BATON_INLINE U8x64 LoadU8(const std::byte* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
BATON_INLINE U8x64 LowNibbles(U8x64 x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
BATON_INLINE U8x64 HighNibbles(U8x64 x) { return LowNibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)}); }
BATON_INLINE U8x64 Iq4Lookup(U8x64 x) {
  const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kIq4Table)));
  return {_mm256_shuffle_epi8(table, x.a), _mm256_shuffle_epi8(table, x.b)};
}
BATON_INLINE __m256i Broadcast4(const std::byte* p) {
  int32_t word;
  std::memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}
BATON_INLINE __m256i DotHalf(__m256i sum, __m256i w, __m256i even, __m256i odd) {
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), even));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_srli_epi16(w, 8), odd));
}
BATON_INLINE I32x16 DotOnce(U8x64 w, const std::byte* digits, I32x16 sum) {
  const __m256i even = Broadcast4(digits), odd = Broadcast4(digits + 4);
  return {DotHalf(sum.a, w.a, even, odd), DotHalf(sum.b, w.b, even, odd)};
}
template <bool kOneDigit, uint32_t kFirst, uint32_t kCount>
BATON_INLINE I32x16 Dots(const U8x64 (&w)[kGroups], const std::byte* digits, I32x16 init) {
#pragma GCC unroll 8
  for (uint32_t g = kFirst; g < kFirst + kCount; ++g) init = DotOnce(w[g], digits + 8 * g, init);
  return init;
}

#else
struct U8x64 { uint8_t v[64]; };
template <bool kOneDigit>
BATON_INLINE void StoreDigits(I32x16 first, I32x16 second, std::byte* out) {
  auto* p = reinterpret_cast<int16_t*>(out);
  StoreI16(first, p), StoreI16(second, p + 16);
}
BATON_INLINE U8x64 LoadU8(const std::byte* p) {
  U8x64 out;
  std::memcpy(out.v, p, sizeof out.v);
  return out;
}
BATON_INLINE U8x64 LowNibbles(U8x64 x) {
  for (uint8_t& byte : x.v) byte &= 15;
  return x;
}
BATON_INLINE U8x64 HighNibbles(U8x64 x) {
  for (uint8_t& byte : x.v) byte >>= 4;
  return x;
}
BATON_INLINE U8x64 Iq4Lookup(U8x64 x) {
  for (uint8_t& byte : x.v) byte = kIq4Table[byte];
  return x;
}
BATON_INLINE I32x16 DotOnce(const U8x64& w, const std::byte* digits, I32x16 sum) {
  const auto* t = reinterpret_cast<const int16_t*>(digits);
  for (uint32_t i = 0; i < kLanes; ++i) {
    for (uint32_t j = 0; j < 4; ++j) sum.v[i] += int32_t{w.v[4 * i + j]} * t[j];
  }
  return sum;
}
template <bool kOneDigit, uint32_t kFirst, uint32_t kCount>
BATON_INLINE I32x16 Dots(const U8x64 (&w)[kGroups], const std::byte* digits, I32x16 init) {
  for (uint32_t g = kFirst; g < kFirst + kCount; ++g) init = DotOnce(w[g], digits + 8 * g, init);
  return init;
}
#endif
#endif

/// One digit's dots with nothing to wait for, in registers. Returns how many products were added up.
uint64_t DotPeak(uint64_t rounds, int32_t* sink) {
#if defined(BATON_AVX512)
  constexpr uint32_t kChains = 12;
#else
  constexpr uint32_t kChains = 4;
#endif
  alignas(64) std::byte bytes[64];
  for (uint32_t i = 0; i < 64; ++i) bytes[i] = static_cast<std::byte>(i % 13);
  const U8x64 w = LoadU8(bytes);
  I32x16 sums[kChains];
#pragma GCC unroll 12
  for (uint32_t c = 0; c < kChains; ++c) sums[c] = Opaque(Set1(static_cast<int32_t>(c)));
  for (uint64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (uint32_t c = 0; c < kChains; ++c) sums[c] = Opaque(DotOnce(w, bytes, sums[c]));
  }
  I32x16 sum = sums[0];
  for (uint32_t c = 1; c < kChains; ++c) sum = Add(sum, sums[c]);
  *sink = SumLanes(sum);
  return rounds * kChains * 64;
}

template <bool kOneDigit>
constexpr uint32_t kRecordBytes = sizeof(QuantHeader) + kDigitBytes<kOneDigit>;

template <bool kOneDigit>
BATON_INLINE std::byte* Record(const QuantRows& x, uint32_t row, uint32_t block) {
  const size_t index = (size_t{row / kRowGroup} * x.blocks + block) * kRowGroup + row % kRowGroup;
  return x.data + index * kRecordBytes<kOneDigit>;
}

template <bool kOneDigit>
void QuantiseBlocks(const float* x, uint32_t row, uint32_t begin, uint32_t end, const QuantRows& out) {
  constexpr float kSteps = kOneDigit ? 127.0f : 32512.0f;  // 32512 = 127 * 256: both digits stay in int8
  for (uint32_t b = begin; b < end; ++b) {
    const F32x16 first = Load(x + b * kBlock), second = Load(x + b * kBlock + kLanes);
    const float largest = MaxLanes(Max(Abs(first), Abs(second)));
    const float inverse = largest > 0 ? kSteps / largest : 0.0f;
    const auto digits = [&](F32x16 v) {
      const F32x16 magic = Set1(12582912.0f);  // adding it rounds to an integer
      const F32x16 rounded = Sub(Fma(v, Set1(inverse), magic), magic);
      return Truncate(Min(Max(rounded, Set1(-kSteps)), Set1(kSteps)));
    };
    const I32x16 t0 = digits(first), t1 = digits(second);
    QuantHeader header{largest / kSteps, 0, {SumLanes(t0), SumLanes(t1)}};
    header.total = header.scale * static_cast<float>(header.sum[0] + header.sum[1]);
    std::byte* record = Record<kOneDigit>(out, row, b);
    std::memcpy(record, &header, sizeof header);
    StoreDigits<kOneDigit>(t0, t1, record + sizeof header);
  }
}

void Quantise(const float* x, uint32_t row, uint32_t begin, uint32_t end, const QuantRows& out) {
  if (out.one_digit) QuantiseBlocks<true>(x, row, begin, end, out);
  else QuantiseBlocks<false>(x, row, begin, end, out);
}

template <WeightForm kForm>
BATON_INLINE void UnpackBlock(const std::byte* p, U8x64 (&w)[kGroups]) {
  if constexpr (IsNibble(kForm)) {
#pragma GCC unroll 4
    for (uint32_t g = 0; g < kGroups / 2; ++g) {
      const U8x64 both = LoadU8(p + 64 * g);
      w[g] = LowNibbles(both);
      w[g + 4] = HighNibbles(both);
      if constexpr (kForm == WeightForm::kNibbleTable) w[g] = Iq4Lookup(w[g]), w[g + 4] = Iq4Lookup(w[g + 4]);
    }
  } else {
#pragma GCC unroll 8
    for (uint32_t g = 0; g < kGroups; ++g) w[g] = LoadU8(p + 64 * g);
  }
}

/// The weights of one block with their scales.
struct BlockScales {
  F32x16 scale, min;  // super-16: scale of the first and of the second half
};

template <WeightForm kForm>
BATON_INLINE BlockScales LoadScales(const std::byte* p, F32x16 whole_scale, F32x16 whole_min) {
  if constexpr (kForm == WeightForm::kByteSuper16) return {Mul(whole_scale, LoadI8(p)), Mul(whole_scale, LoadI8(p + 16))};
  else if constexpr (IsSuper(kForm)) return {Mul(whole_scale, LoadI8(p)), Mul(whole_min, LoadI8(p + 16))};
  else if constexpr (HasMin(kForm)) return {LoadF16(p), LoadF16(p + 32)};
  else return {LoadF16(p), Zero()};
}

constexpr bool HasZero(WeightForm form) {
  return form == WeightForm::kNibble || form == WeightForm::kNibbleTable || form == WeightForm::kByte || form == WeightForm::kByteSuper16;
}

/// Adds one block of one row to its sums.
template <WeightForm kForm, bool kOneDigit>
BATON_INLINE F32x16 AddBlock(const U8x64 (&w)[kGroups], BlockScales s, const std::byte* record, int32_t zero, F32x16 acc) {
  QuantHeader header;
  std::memcpy(&header, record, sizeof header);
  const std::byte* digits = record + sizeof header;
  const F32x16 x_scale = Set1(header.scale);
  if constexpr (kForm == WeightForm::kByteSuper16) {
    const I32x16 low = Dots<kOneDigit, 0, 4>(w, digits, Set1(-zero * header.sum[0]));
    const I32x16 high = Dots<kOneDigit, 4, 4>(w, digits, Set1(-zero * header.sum[1]));
    return Fma(Mul(s.min, x_scale), ToFloat(high), Fma(Mul(s.scale, x_scale), ToFloat(low), acc));
  } else {
    const int32_t start = HasZero(kForm) ? -zero * (header.sum[0] + header.sum[1]) : 0;
    const I32x16 dots = Dots<kOneDigit, 0, kGroups>(w, digits, Set1(start));
    acc = Fma(Mul(s.scale, x_scale), ToFloat(dots), acc);
    if constexpr (HasMin(kForm) || IsSuper(kForm)) acc = Fma(s.min, Set1(header.total), acc);
    return acc;
  }
}

/// kRows rows whose first record is at `x`, one tile.
template <WeightForm kForm, bool kOneDigit, uint32_t kRows>
BATON_INLINE void TileRows(const std::byte* w, const std::byte* x, uint32_t blocks, int32_t zero, F32x16 (&acc)[kRows]) {
  constexpr uint32_t kAhead = 4096;  // bytes: a DRAM access earlier
#pragma GCC unroll 8
  for (uint32_t r = 0; r < kRows; ++r) acc[r] = Zero();
  F32x16 whole_scale = Zero(), whole_min = Zero();
  for (uint32_t b = 0; b < blocks; ++b) {
    if constexpr (IsSuper(kForm)) {
      if (b % kSuperBlocks == 0) {
        whole_scale = LoadF16(w);
        whole_min = LoadF16(w + 32);
        w += kSuperHeaderBytes;
      }
    }
    if constexpr (kRows <= 2) {
      for (uint32_t line = 0; line < BlockBytes(kForm); line += 64) Prefetch(w + kAhead + line);
    }
    U8x64 groups[kGroups];
    UnpackBlock<kForm>(w, groups);
    const BlockScales scales = LoadScales<kForm>(w + QuantBytes(kForm), whole_scale, whole_min);
#pragma GCC unroll 8
    for (uint32_t r = 0; r < kRows; ++r) acc[r] = AddBlock<kForm, kOneDigit>(groups, scales, x + r * kRecordBytes<kOneDigit>, zero, acc[r]);
    w += BlockBytes(kForm);
    x += kRowGroup * kRecordBytes<kOneDigit>;
  }
}

/// Puts the sums of one row and tile where they belong; the last tile may have fewer outputs than lanes.
BATON_INLINE void PutTile(F32x16 acc, const MatmulOut& out, uint32_t row, uint32_t tile, uint32_t outputs) {
  const uint32_t first = tile * kTileRows;
  float* place = out.data + row * out.stride + first - out.origin;
  if (first + kTileRows <= outputs) {
    if (out.bias != nullptr) acc = Add(acc, Load(out.bias + first));
    Store(out.add ? Add(Load(place), acc) : acc, place);
    return;
  }
  float sums[kTileRows];
  Store(acc, sums);
  for (uint32_t i = 0; first + i < outputs; ++i) {
    const float sum = out.bias != nullptr ? sums[i] + out.bias[first + i] : sums[i];
    place[i] = out.add ? place[i] + sum : sum;
  }
}

template <WeightForm kForm, bool kOneDigit, uint32_t kRows>
void RunRows(const PackedMatrix& m, const std::byte* w, const QuantRows& x, uint32_t row, const MatmulOut& out, uint32_t tile) {
  F32x16 acc[kRows];
  TileRows<kForm, kOneDigit, kRows>(w, Record<kOneDigit>(x, row, 0), m.blocks(), m.zero, acc);
#pragma GCC unroll 8
  for (uint32_t r = 0; r < kRows; ++r) PutTile(acc[r], out, row + r, tile, m.rows);
}

template <WeightForm kForm, bool kOneDigit>
void MatmulForm(const PackedMatrix& m, const QuantRows& x, uint32_t rows, const MatmulOut& out, uint32_t tile_begin, uint32_t tile_end) {
  const size_t tile_bytes = m.TileBytes();
  for (uint32_t base = 0; base < rows; base += kRowsInCache) {
    const uint32_t end = base + kRowsInCache < rows ? base + kRowsInCache : rows;
    for (uint32_t tile = tile_begin; tile < tile_end; ++tile) {
      const std::byte* w = m.data + tile * tile_bytes;
      uint32_t row = base;
      for (; row + 8 <= end; row += 8) RunRows<kForm, kOneDigit, 8>(m, w, x, row, out, tile);
      if (row + 4 <= end) RunRows<kForm, kOneDigit, 4>(m, w, x, row, out, tile), row += 4;
      if (row + 2 <= end) RunRows<kForm, kOneDigit, 2>(m, w, x, row, out, tile), row += 2;
      if (row < end) RunRows<kForm, kOneDigit, 1>(m, w, x, row, out, tile);
    }
  }
}

template <WeightForm kForm>
void MatmulDigits(const PackedMatrix& m, const QuantRows& x, uint32_t rows, const MatmulOut& out, uint32_t tile_begin, uint32_t tile_end) {
  if (x.one_digit) MatmulForm<kForm, true>(m, x, rows, out, tile_begin, tile_end);
  else MatmulForm<kForm, false>(m, x, rows, out, tile_begin, tile_end);
}

void MatmulInt(const PackedMatrix& m, const QuantRows& x, uint32_t rows, const MatmulOut& out, uint32_t tile_begin, uint32_t tile_end) {
  switch (m.form) {
    case WeightForm::kNibble: return MatmulDigits<WeightForm::kNibble>(m, x, rows, out, tile_begin, tile_end);
    case WeightForm::kNibbleMin: return MatmulDigits<WeightForm::kNibbleMin>(m, x, rows, out, tile_begin, tile_end);
    case WeightForm::kNibbleTable: return MatmulDigits<WeightForm::kNibbleTable>(m, x, rows, out, tile_begin, tile_end);
    case WeightForm::kByte: return MatmulDigits<WeightForm::kByte>(m, x, rows, out, tile_begin, tile_end);
    case WeightForm::kByteMin: return MatmulDigits<WeightForm::kByteMin>(m, x, rows, out, tile_begin, tile_end);
    case WeightForm::kNibbleSuper: return MatmulDigits<WeightForm::kNibbleSuper>(m, x, rows, out, tile_begin, tile_end);
    case WeightForm::kByteSuper: return MatmulDigits<WeightForm::kByteSuper>(m, x, rows, out, tile_begin, tile_end);
    case WeightForm::kByteSuper16: return MatmulDigits<WeightForm::kByteSuper16>(m, x, rows, out, tile_begin, tile_end);
    default: return;  // float forms go to MatmulFloat
  }
}

}  // namespace
}  // namespace baton
