// Causal attention over paged KV. Included by the kernels_*.cc units only.
//
// The cache is walked in tiles of 64 positions counted from 0, ascending, with a running softmax, so a query's bits depend
// on its own prefix alone. A tile's keys are turned once so that lanes are positions (and its values widened to f32), then
// serve all queries of the task: a score is one chain of FMAs over the head's dimensions, an output one chain over the
// visible positions. Positions a query may not see are left out of the chain, not multiplied by zero.
#pragma once

#include "model/kernels/elementwise.h"
#include "model/kernels/float_matmul.h"

namespace baton {
namespace {

#if defined(BATON_AVX512)
constexpr uint32_t kQueryRows = 6, kVectors = 4;  // 24 sums, 4 vectors of the tile and a query's value: 29 registers
#elif defined(__AVX2__)
constexpr uint32_t kQueryRows = 2, kVectors = 2;
#else
constexpr uint32_t kQueryRows = 1, kVectors = 4;
#endif
constexpr uint32_t kTileVectors = kAttentionTile / kLanes;

/// Where the parts of AttentionTask::scratch lie. "dim" is the head's dimension rounded up to lanes.
struct Scratch {
  float *keys, *values;     // [head_dim][64], [64][dim]
  float *queries, *sums;    // [query][head_dim] scaled, [query][dim]
  float *top, *total;       // [query]
};

BATON_INLINE Scratch Divide(const AttentionTask& t, uint32_t dim) {
  const size_t queries = size_t{t.rows} * t.group;
  Scratch s{};
  s.keys = t.scratch;
  s.values = s.keys + size_t{dim} * kAttentionTile;
  s.queries = s.values + size_t{dim} * kAttentionTile;
  s.sums = s.queries + queries * dim;
  s.top = s.sums + queries * dim;
  s.total = s.top + queries;
  return s;
}

/// 16 elements of a stored vector, as f32.
template <KvDtype kDtype>
BATON_INLINE F32x16 Widen(const std::byte* p, float scale) {
  if constexpr (kDtype == KvDtype::kF32) return Load(reinterpret_cast<const float*>(p));
  else if constexpr (kDtype == KvDtype::kF16) return LoadF16(p);
  else if constexpr (kDtype == KvDtype::kBf16) return LoadBf16(p);
  else return Mul(LoadI8(p), Set1(scale));
}
template <KvDtype kDtype>
constexpr uint32_t kStoredBytes = kDtype == KvDtype::kF32 ? 4 : kDtype == KvDtype::kInt8 ? 1 : 2;

/// The elements from d on; at the head's end there may be fewer than 16, then zeros.
template <KvDtype kDtype>
BATON_INLINE F32x16 LoadStored(const std::byte* vector, uint32_t d, uint32_t head_dim, float scale) {
  const std::byte* p = vector + d * kStoredBytes<kDtype>;
  if (d + kLanes <= head_dim) [[likely]] return Widen<kDtype>(p, scale);
  std::byte part[kLanes * kStoredBytes<kDtype>] = {};
  std::memcpy(part, p, (head_dim - d) * kStoredBytes<kDtype>);
  return Widen<kDtype>(part, scale);
}

/// The stored vectors of a tile and, for int8, their scales.
struct StoredTile {
  const std::byte* vectors[kAttentionTile];
  float scales[kAttentionTile];
};

/// Finds `count` positions from `first` on in part `which` (0 = K, 1 = V) of their blocks.
template <KvDtype kDtype>
BATON_INLINE void Find(const AttentionTask& t, uint32_t which, uint32_t first, uint32_t count, StoredTile& out) {
  const KvLayout& layout = *t.layout;
  const size_t part = layout.PartOffset(t.layer, which), data = part + layout.VectorOffset(t.kv_head, 0);
  const size_t step = layout.VectorOffset(0, 1), scale = part + layout.ScaleOffset(t.kv_head, 0);
  for (uint32_t j = 0; j < count;) {
    const std::byte* block = t.blocks[(first + j) / layout.block_tokens];
    for (uint32_t token = (first + j) % layout.block_tokens; token < layout.block_tokens && j < count; ++token, ++j) {
      out.vectors[j] = block + data + token * step;
      if constexpr (kDtype == KvDtype::kInt8) std::memcpy(&out.scales[j], block + scale + token * sizeof(float), sizeof(float));
      else out.scales[j] = 1.0f;
    }
  }
}

/// Asks for the vectors before they are needed: pages of a cache lie far apart, which no hardware prefetcher bridges.
BATON_INLINE void Expect(const StoredTile& tile, uint32_t count, size_t vector_bytes) {
  for (uint32_t j = 0; j < count; ++j) {
    for (size_t at = 0; at < vector_bytes; at += 64) Prefetch(tile.vectors[j] + at);
  }
}

/// The keys of positions [base, base + present) into s.keys; `values` are found, and the keys of `following` positions asked for.
template <KvDtype kDtype>
void LoadKeys(const AttentionTask& t, uint32_t base, uint32_t present, uint32_t following, const Scratch& s, StoredTile& values) {
  const uint32_t head_dim = t.layout->head_dim;
  const size_t vector_bytes = t.layout->VectorOffset(0, 1);
  StoredTile stored;
  Find<kDtype>(t, 0, base, present, stored);
  Find<kDtype>(t, 1, base, present, values);
  Expect(values, present, vector_bytes);
  for (uint32_t j = present; j % kLanes != 0; ++j) stored.vectors[j] = stored.vectors[0], stored.scales[j] = 0;  // scores nobody uses
  for (uint32_t d = 0; d < head_dim; d += kLanes) {
    const uint32_t rows = head_dim - d < kLanes ? head_dim - d : kLanes;
    for (uint32_t first = 0; first < present; first += kLanes) {
      F32x16 square[kLanes];
#pragma GCC unroll 16
      for (uint32_t j = 0; j < kLanes; ++j) square[j] = LoadStored<kDtype>(stored.vectors[first + j], d, head_dim, stored.scales[first + j]);
      Transpose(square);
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kLanes; ++i) {
        if (i < rows) Store(square[i], s.keys + size_t{d + i} * kAttentionTile + first);
      }
    }
  }
  Find<kDtype>(t, 0, base + present, following, stored);
  Expect(stored, following, vector_bytes);
}

/// scores[r][64] = queries · keys; the lanes of vectors past `valid` positions hold nothing of use.
template <uint32_t kRows>
BATON_INLINE void Scores(const float* queries, uint32_t head_dim, const float* keys, uint32_t valid, float* scores) {
  for (uint32_t v = 0; v * kLanes < valid; v += kVectors) {
    F32x16 acc[kRows][kVectors];
#pragma GCC unroll 8
    for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (uint32_t w = 0; w < kVectors; ++w) acc[r][w] = Zero();
    }
    MultiplyAdd<kRows, kVectors>(queries, head_dim, head_dim,
                                 [&](uint32_t d, uint32_t w) { return Load(keys + size_t{d} * kAttentionTile + (v + w) * kLanes); }, acc);
#pragma GCC unroll 8
    for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (uint32_t w = 0; w < kVectors; ++w) Store(acc[r][w], scores + r * kAttentionTile + (v + w) * kLanes);
    }
  }
}

/// Scores become weights e^(score - top); returns nothing but updates the running top and total. corrections[r] is what
/// the sums so far must be multiplied by.
template <uint32_t kRows>
BATON_INLINE void Soften(float* scores, uint32_t valid, float* top, float* total, float* corrections) {
  float delta[kLanes] = {};
  const uint32_t vectors = (valid + kLanes - 1) / kLanes;
  for (uint32_t r = 0; r < kRows; ++r) {
    float* row = scores + r * kAttentionTile;
    for (uint32_t j = valid; j < vectors * kLanes; ++j) row[j] = -INFINITY;
    F32x16 best = Load(row);
    for (uint32_t v = 1; v < vectors; ++v) best = Max(best, Load(row + v * kLanes));
    const float highest = MaxLanes(best);
    const float now = highest > top[r] ? highest : top[r];
    delta[r] = top[r] - now;
    top[r] = now;
    F32x16 sum = Zero();
    for (uint32_t v = 0; v < vectors; ++v) {
      const F32x16 weight = Exp(Sub(Load(row + v * kLanes), Set1(now)));
      Store(weight, row + v * kLanes);
      sum = Add(sum, weight);
    }
    corrections[r] = SumLanes(sum);
  }
  float factors[kLanes];
  Store(Exp(Load(delta)), factors);
  for (uint32_t r = 0; r < kRows; ++r) {
    total[r] = __builtin_fmaf(total[r], factors[r], corrections[r]);
    corrections[r] = factors[r];
  }
}

/// sums[r] = sums[r] * corrections[r] + Σ_j weights[r][j] * values[j], over kWidth vectors from `d` on.
template <uint32_t kRows, uint32_t kWidth, typename Values>
BATON_INLINE void Gather(const float* weights, const Values& values, uint32_t valid, uint32_t dim, uint32_t d, const float* corrections, float* sums) {
  F32x16 acc[kRows][kWidth];
#pragma GCC unroll 8
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (uint32_t w = 0; w < kWidth; ++w) acc[r][w] = Mul(Load(sums + size_t{r} * dim + d + w * kLanes), Set1(corrections[r]));
  }
  MultiplyAdd<kRows, kWidth>(weights, kAttentionTile, valid, [&](uint32_t j, uint32_t w) { return values(j, d + w * kLanes); }, acc);
#pragma GCC unroll 8
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (uint32_t w = 0; w < kWidth; ++w) Store(acc[r][w], sums + size_t{r} * dim + d + w * kLanes);
  }
}

/// The tile for the queries [first, first + kRows), which all see its first `valid` positions.
template <uint32_t kRows, typename Values>
void AttendQueries(const Scratch& s, const Values& values, uint32_t first, uint32_t valid, uint32_t head_dim, uint32_t dim) {
  alignas(64) float scores[kRows * kAttentionTile];
  float corrections[kRows];
  Scores<kRows>(s.queries + size_t{first} * head_dim, head_dim, s.keys, valid, scores);
  Soften<kRows>(scores, valid, s.top + first, s.total + first, corrections);
  float* sums = s.sums + size_t{first} * dim;
  uint32_t d = 0;
  for (; d + kVectors * kLanes <= dim; d += kVectors * kLanes) Gather<kRows, kVectors>(scores, values, valid, dim, d, corrections, sums);
  for (; d < dim; d += kLanes) Gather<kRows, 1>(scores, values, valid, dim, d, corrections, sums);
}

/// All queries of the task over the tile whose keys are loaded; values(j, d) are 16 elements of position j.
template <typename Values>
BATON_INLINE void AttendTile(const AttentionTask& t, const Scratch& s, const Values& values, uint32_t base, uint32_t head_dim, uint32_t dim) {
  const uint32_t queries = t.rows * t.group;
  const auto valid = [&](uint32_t query) {  // positions of the tile it sees; at most 0 if none
    const int64_t seen = int64_t{t.start} + query / t.group + 1 - base;
    return seen < 0 ? 0u : seen > kAttentionTile ? kAttentionTile : static_cast<uint32_t>(seen);
  };
  for (uint32_t i = 0; i < queries;) {
    const uint32_t seen = valid(i);
    const auto alike = [&](uint32_t count) { return i + count <= queries && valid(i + count - 1) == seen; };
    if (seen == 0) {
      i += t.group - i % t.group;
    } else if (kQueryRows > 3 && alike(kQueryRows)) {
      AttendQueries<kQueryRows>(s, values, i, seen, head_dim, dim), i += kQueryRows;
    } else if (kQueryRows >= 3 && alike(3)) {
      AttendQueries<kQueryRows >= 3 ? 3 : 1>(s, values, i, seen, head_dim, dim), i += 3;
    } else if (kQueryRows >= 2 && alike(2)) {
      AttendQueries<kQueryRows >= 2 ? 2 : 1>(s, values, i, seen, head_dim, dim), i += 2;
    } else {
      AttendQueries<1>(s, values, i, seen, head_dim, dim), i += 1;
    }
  }
}

/// One tile: its values are widened once where many queries read them, else read as they are stored.
template <KvDtype kDtype>
void RunTile(const AttentionTask& t, uint32_t base, uint32_t end, uint32_t dim, const Scratch& s) {
  const uint32_t present = end - base < kAttentionTile ? end - base : kAttentionTile, left = end - base - present;
  const uint32_t head_dim = t.layout->head_dim;
  StoredTile stored;
  LoadKeys<kDtype>(t, base, present, left < kAttentionTile ? left : kAttentionTile, s, stored);
  if (t.rows == 1 && dim == head_dim) {
    const auto as_stored = [&](uint32_t j, uint32_t d) { return Widen<kDtype>(stored.vectors[j] + d * kStoredBytes<kDtype>, stored.scales[j]); };
    return AttendTile(t, s, as_stored, base, head_dim, dim);
  }
  for (uint32_t j = 0; j < present; ++j) {
    for (uint32_t d = 0; d < dim; d += kLanes) {
      Store(LoadStored<kDtype>(stored.vectors[j], d, head_dim, stored.scales[j]), s.values + size_t{j} * dim + d);
    }
  }
  AttendTile(t, s, [&](uint32_t j, uint32_t d) { return Load(s.values + size_t{j} * dim + d); }, base, head_dim, dim);
}

void Attention(const AttentionTask& t) {
  const uint32_t head_dim = t.layout->head_dim, dim = (head_dim + kLanes - 1) / kLanes * kLanes;
  const uint32_t queries = t.rows * t.group, end = t.start + t.rows;
  const Scratch s = Divide(t, dim);
  const F32x16 scale = Set1(1.0f / __builtin_sqrtf(static_cast<float>(head_dim)));
  for (uint32_t i = 0; i < queries; ++i) {
    const float* q = t.q + i / t.group * t.q_stride + i % t.group * size_t{head_dim};
    Map(q, q, head_dim, s.queries + size_t{i} * head_dim, [&](F32x16 a, F32x16) { return Mul(a, scale); });
    s.top[i] = -INFINITY;
    s.total[i] = 0;
  }
  std::memset(s.sums, 0, size_t{queries} * dim * sizeof(float));
  for (uint32_t base = 0; base < end; base += kAttentionTile) {
    switch (t.layout->dtype) {
      case KvDtype::kF32: RunTile<KvDtype::kF32>(t, base, end, dim, s); break;
      case KvDtype::kF16: RunTile<KvDtype::kF16>(t, base, end, dim, s); break;
      case KvDtype::kBf16: RunTile<KvDtype::kBf16>(t, base, end, dim, s); break;
      case KvDtype::kInt8: RunTile<KvDtype::kInt8>(t, base, end, dim, s); break;
    }
  }
  for (uint32_t i = 0; i < queries; ++i) {
    const F32x16 inverse = Set1(1.0f / s.total[i]);
    const float* sums = s.sums + size_t{i} * dim;
    Map(sums, sums, head_dim, t.out + i / t.group * t.out_stride + i % t.group * size_t{head_dim}, [&](F32x16 a, F32x16) { return Mul(a, inverse); });
  }
}

void StoreKv(const float* vector, const KvLayout& layout, std::byte* part, uint32_t head, uint32_t token) {
  std::byte* out = part + layout.VectorOffset(head, token);
  const uint32_t n = layout.head_dim;
  if (layout.dtype == KvDtype::kF32) {
    std::memcpy(out, vector, n * sizeof(float));
  } else if (layout.dtype == KvDtype::kInt8) {
    float largest = 0;
    for (uint32_t d = 0; d < n; ++d) largest = __builtin_fabsf(vector[d]) > largest ? __builtin_fabsf(vector[d]) : largest;
    const float scale = largest / 127.0f, inverse = largest > 0 ? 127.0f / largest : 0.0f;
    for (uint32_t d = 0; d < n; ++d) {
      const float rounded = __builtin_fmaf(vector[d], inverse, 12582912.0f) - 12582912.0f;
      out[d] = static_cast<std::byte>(static_cast<int8_t>(rounded > 127.0f ? 127.0f : rounded < -127.0f ? -127.0f : rounded));
    }
    std::memcpy(part + layout.ScaleOffset(head, token), &scale, sizeof scale);
  } else {
    uint32_t d = 0;
    if (layout.dtype == KvDtype::kF16) {
      for (; d + kLanes <= n; d += kLanes) StoreF16(Load(vector + d), out + 2 * d);
    }
    for (; d < n; ++d) {
      const uint16_t h = layout.dtype == KvDtype::kF16 ? F32ToF16(vector[d]) : F32ToBf16(vector[d]);
      std::memcpy(out + 2 * d, &h, 2);
    }
  }
}

}  // namespace
}  // namespace baton
