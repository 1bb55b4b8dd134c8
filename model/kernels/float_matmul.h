// Products of f32 rows with a matrix whose columns are lanes: float weights, and both halves of attention. Included by the
// kernels_*.cc units only. Each sum is one chain of FMAs over k in ascending order, whatever the blocking.
#pragma once

#include "model/kernels/int_matmul.h"

namespace baton {
namespace {

/// acc[r][w] += Σ_k a[r * a_stride + k] * load(k, w), w-th vector of row k.
template <uint32_t kRows, uint32_t kVectors, typename LoadB>
BATON_INLINE void MultiplyAdd(const float* a, size_t a_stride, uint32_t depth, LoadB load, F32x16 (&acc)[kRows][kVectors]) {
  for (uint32_t k = 0; k < depth; ++k) {
    F32x16 b[kVectors];
#pragma GCC unroll 4
    for (uint32_t w = 0; w < kVectors; ++w) b[w] = load(k, w);
#pragma GCC unroll 8
    for (uint32_t r = 0; r < kRows; ++r) {
      const F32x16 value = Set1(a[r * a_stride + k]);
#pragma GCC unroll 4
      for (uint32_t w = 0; w < kVectors; ++w) acc[r][w] = Fma(value, b[w], acc[r][w]);
    }
  }
}

template <WeightForm kForm>
BATON_INLINE F32x16 LoadWeights(const std::byte* tile, uint32_t k) {
  if constexpr (kForm == WeightForm::kF32) return Load(reinterpret_cast<const float*>(tile) + size_t{k} * kLanes);
  else if constexpr (kForm == WeightForm::kF16) return LoadF16(tile + size_t{k} * kLanes * 2);
  else return LoadBf16(tile + size_t{k} * kLanes * 2);
}

/// kRows rows and kTiles tiles.
template <WeightForm kForm, uint32_t kRows, uint32_t kTiles>
void FloatTile(const PackedMatrix& m, const float* x, size_t x_stride, uint32_t row, const MatmulOut& out, uint32_t tile) {
  const size_t tile_bytes = m.TileBytes();
  const std::byte* w = m.data + tile * tile_bytes;
  F32x16 acc[kRows][kTiles];
#pragma GCC unroll 8
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (uint32_t t = 0; t < kTiles; ++t) acc[r][t] = Zero();
  }
  MultiplyAdd<kRows, kTiles>(x + row * x_stride, x_stride, m.cols, [&](uint32_t k, uint32_t t) {
    if constexpr (kRows == 1) Prefetch(w + t * tile_bytes + size_t{k} * kLanes * 4 + 2048);
    return LoadWeights<kForm>(w + t * tile_bytes, k);
  }, acc);
#pragma GCC unroll 8
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (uint32_t t = 0; t < kTiles; ++t) PutTile(acc[r][t], out, row + r, tile + t, m.rows);
  }
}

template <WeightForm kForm, uint32_t kTiles>
void FloatTiles(const PackedMatrix& m, const float* x, size_t x_stride, uint32_t row, uint32_t end, const MatmulOut& out, uint32_t tile) {
#if defined(BATON_AVX512)
  for (; row + 8 <= end; row += 8) FloatTile<kForm, 8, kTiles>(m, x, x_stride, row, out, tile);
#endif
  for (; row + 4 <= end; row += 4) FloatTile<kForm, 4, kTiles>(m, x, x_stride, row, out, tile);
  for (; row < end; ++row) FloatTile<kForm, 1, kTiles>(m, x, x_stride, row, out, tile);
}

template <WeightForm kForm>
void MatmulFloatForm(const PackedMatrix& m, const float* x, size_t x_stride, uint32_t rows, const MatmulOut& out, uint32_t tile_begin, uint32_t tile_end) {
#if defined(BATON_AVX512)
  constexpr uint32_t kTiles = 2;
#else
  constexpr uint32_t kTiles = 1;
#endif
  for (uint32_t base = 0; base < rows; base += kRowsInCache) {
    const uint32_t end = base + kRowsInCache < rows ? base + kRowsInCache : rows;
    uint32_t tile = tile_begin;
    for (; tile + kTiles <= tile_end; tile += kTiles) FloatTiles<kForm, kTiles>(m, x, x_stride, base, end, out, tile);
    for (; tile < tile_end; ++tile) FloatTiles<kForm, 1>(m, x, x_stride, base, end, out, tile);
  }
}

void MatmulFloat(const PackedMatrix& m, const float* x, size_t x_stride, uint32_t rows, const MatmulOut& out, uint32_t tile_begin, uint32_t tile_end) {
  switch (m.form) {
    case WeightForm::kF32: return MatmulFloatForm<WeightForm::kF32>(m, x, x_stride, rows, out, tile_begin, tile_end);
    case WeightForm::kF16: return MatmulFloatForm<WeightForm::kF16>(m, x, x_stride, rows, out, tile_begin, tile_end);
    case WeightForm::kBf16: return MatmulFloatForm<WeightForm::kBf16>(m, x, x_stride, rows, out, tile_begin, tile_end);
    default: return;  // integer forms go to MatmulInt
  }
}

}  // namespace
}  // namespace baton
