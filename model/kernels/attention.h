// Causal attention over paged KV. Included by the kernels_*.cc units only.
//
// The cache is walked in tiles of 64 positions counted from 0, and tiles are gathered in spans of 256: within a span the
// softmax runs from tile to tile, and the spans' results are merged in ascending order. A score is a lane-wise chain of
// FMAs over the head's dimensions, folded by SumLanes' tree; an output is one chain over the visible positions of a tile.
// So a query's bits depend on its own prefix alone, whether one thread did all its spans or several did one each.
// Positions a query may not see are left out of the chain, not multiplied by zero.
#pragma once

#include "model/kernels/elementwise.h"
#include "model/kernels/float_matmul.h"

namespace baton {
namespace {

#if defined(BATON_AVX512)
constexpr uint32_t kScoreRows = 3, kQueryRows = 6, kVectors = 4;  // 12 sums, 9 folded, 4 keys; 24 sums, 4 values: 29 of 32 registers
#elif defined(__AVX2__)
constexpr uint32_t kScoreRows = 1, kQueryRows = 2, kVectors = 2;
#else
constexpr uint32_t kScoreRows = 1, kQueryRows = 1, kVectors = 4;
#endif

BATON_INLINE uint32_t RoundToLanes(uint32_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

/// The running softmax of some queries over some positions.
struct Softmax {
  float *sums;         // [query][dim]: Σ weight * value
  float *top, *total;  // [query]: the largest score, Σ weight
};
BATON_INLINE Softmax SoftmaxAt(float* memory, size_t queries, uint32_t dim) { return {memory, memory + queries * dim, memory + queries * (dim + 1)}; }

/// Where the parts of AttentionTask::scratch lie. "dim" is the head's dimension rounded up to lanes.
struct Scratch {
  float *keys, *values;  // [64][dim], the tile widened
  float* queries;        // [query][dim], scaled
  Softmax span, all;     // of the span at hand; of the spans before it
};

BATON_INLINE Scratch Divide(const AttentionTask& t, uint32_t dim) {
  const size_t queries = size_t{t.rows} * t.group;
  Scratch s{};
  s.keys = t.scratch;
  s.values = s.keys + size_t{dim} * kAttentionTile;
  s.queries = s.values + size_t{dim} * kAttentionTile;
  s.span = SoftmaxAt(s.queries + queries * dim, queries, dim);
  s.all = SoftmaxAt(s.queries + queries * (2 * dim + 2), queries, dim);
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

/// Consecutive positions of one block, K or V of one head.
struct StoredRun {
  const std::byte *vectors, *scales;  // scales: int8 only
  uint32_t count;

  template <KvDtype kDtype>
  float Scale(uint32_t j) const {
    float scale = 1.0f;
    if constexpr (kDtype == KvDtype::kInt8) std::memcpy(&scale, scales + j * sizeof scale, sizeof scale);
    return scale;
  }
};

/// Up to `most` positions from `position` on, of part `which` (0 = K, 1 = V).
BATON_INLINE StoredRun FindRun(const AttentionTask& t, uint32_t which, uint32_t position, uint32_t most) {
  const KvLayout& layout = *t.layout;
  const uint32_t token = position % layout.block_tokens, left = layout.block_tokens - token;
  const std::byte* part = t.blocks[position / layout.block_tokens] + layout.PartOffset(t.layer, which);
  return {part + layout.VectorOffset(t.kv_head, token), part + layout.ScaleOffset(t.kv_head, token), left < most ? left : most};
}

/// `count` positions from `first` on, widened into out[64][dim]; lanes past the head's end are 0.
template <KvDtype kDtype>
void WidenTile(const AttentionTask& t, uint32_t which, uint32_t first, uint32_t count, uint32_t dim, float* out) {
  const uint32_t head_dim = t.layout->head_dim;
  for (uint32_t j = 0; j < count;) {
    const StoredRun run = FindRun(t, which, first + j, count - j);
    for (uint32_t i = 0; i < run.count; ++i, ++j) {
      const std::byte* vector = run.vectors + size_t{i} * head_dim * kStoredBytes<kDtype>;
      const float scale = run.Scale<kDtype>(i);
      uint32_t d = 0;
      for (; d + kLanes <= head_dim; d += kLanes) Store(Widen<kDtype>(vector + d * kStoredBytes<kDtype>, scale), out + size_t{j} * dim + d);
      if (d == head_dim) continue;
      std::byte part[kLanes * kStoredBytes<kDtype>] = {};
      std::memcpy(part, vector + d * kStoredBytes<kDtype>, (head_dim - d) * kStoredBytes<kDtype>);
      Store(Widen<kDtype>(part, scale), out + size_t{j} * dim + d);
    }
  }
}

/// A tile's keys or values as the arithmetic reads them: widened before, or as they are stored. kDim is "dim" where it is
/// known to the compiler.
template <uint32_t kDim>
struct WidenedTile {
  const float* vectors;  // [64][dim]
  uint32_t run_time_dim;
  BATON_INLINE uint32_t dim() const { return kDim != 0 ? kDim : run_time_dim; }
  BATON_INLINE F32x16 At(uint32_t j, uint32_t d) const { return Load(vectors + size_t{j} * dim() + d); }
  BATON_INLINE void Pass(uint32_t) const {}
};
template <KvDtype kDtype, uint32_t kDim>
struct StoredTile {
  static constexpr size_t kVectorBytes = size_t{kDim} * kStoredBytes<kDtype>;
  StoredRun run;
  const std::byte* next;  // the vectors of the tile that follows
  BATON_INLINE uint32_t dim() const { return kDim; }
  BATON_INLINE F32x16 At(uint32_t j, uint32_t d) const {
    return Widen<kDtype>(run.vectors + j * kVectorBytes + d * kStoredBytes<kDtype>, run.Scale<kDtype>(j));
  }
  /// Says that vector j is read now: the same of the next tile is asked for, as blocks lie far apart, which no hardware
  /// prefetcher bridges.
  BATON_INLINE void Pass(uint32_t j) const {
#pragma GCC unroll 8
    for (size_t at = 0; at < kVectorBytes; at += 64) Prefetch(next + j * kVectorBytes + at);
  }
};

/// scores[r][64] = queries · keys; those past `valid` are of no use.
template <uint32_t kRows, typename Keys>
BATON_INLINE void Scores(const float* queries, const Keys& keys, uint32_t valid, float* scores) {
  const uint32_t dim = keys.dim();
  for (uint32_t first = 0; first < valid; first += kLanes) {
    F32x16 folded[kRows][4];
#pragma GCC unroll 4
    for (uint32_t e = 0; e < 4; ++e) {  // positions first + e, + 4, + 8, + 12: the order in which SumFours and SumOrdered put them
      F32x16 acc[kRows][4];
#pragma GCC unroll 4
      for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (uint32_t p = 0; p < 4; ++p) acc[r][p] = Zero();
      }
#pragma GCC unroll 4
      for (uint32_t p = 0; p < 4; ++p) keys.Pass(first + e + 4 * p);
      for (uint32_t d = 0; d < dim; d += kLanes) {
        F32x16 k[4];
#pragma GCC unroll 4
        for (uint32_t p = 0; p < 4; ++p) k[p] = InRegister(keys.At(first + e + 4 * p, d));
#pragma GCC unroll 4
        for (uint32_t r = 0; r < kRows; ++r) {
          const F32x16 q = Load(queries + size_t{r} * dim + d);
#pragma GCC unroll 4
          for (uint32_t p = 0; p < 4; ++p) acc[r][p] = Fma(q, k[p], acc[r][p]);
        }
      }
#pragma GCC unroll 4
      for (uint32_t r = 0; r < kRows; ++r) folded[r][e] = SumFours(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
    }
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; ++r) {
      Store(SumOrdered(folded[r][0], folded[r][1], folded[r][2], folded[r][3]), scores + r * kAttentionTile + first);
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
  MultiplyAdd<kRows, kWidth>(weights, kAttentionTile, valid, [&](uint32_t j, uint32_t w) {
    if (w == 0 && d == 0) values.Pass(j);
    return values.At(j, d + w * kLanes);
  }, acc);
#pragma GCC unroll 8
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (uint32_t w = 0; w < kWidth; ++w) Store(acc[r][w], sums + size_t{r} * dim + d + w * kLanes);
  }
}

/// The tile for the queries [first, first + kRows), which all see its first `valid` positions.
template <uint32_t kRows, typename Keys, typename Values>
void AttendQueries(const Scratch& s, const Keys& keys, const Values& values, uint32_t first, uint32_t valid) {
  const uint32_t dim = values.dim();
  constexpr uint32_t kAtOnce = kRows % kScoreRows == 0 ? kScoreRows : 1;
  alignas(64) float scores[kRows * kAttentionTile];
  float corrections[kRows];
  for (uint32_t r = 0; r < kRows; r += kAtOnce) {
    Scores<kAtOnce>(s.queries + size_t{first + r} * dim, keys, valid, scores + r * kAttentionTile);
  }
  Soften<kRows>(scores, valid, s.span.top + first, s.span.total + first, corrections);
  float* sums = s.span.sums + size_t{first} * dim;
  uint32_t d = 0;
  for (; d + kVectors * kLanes <= dim; d += kVectors * kLanes) Gather<kRows, kVectors>(scores, values, valid, dim, d, corrections, sums);
  for (; d < dim; d += kLanes) Gather<kRows, 1>(scores, values, valid, dim, d, corrections, sums);
}

/// All queries of the task over the tile at `base`.
template <typename Keys, typename Values>
BATON_INLINE void AttendTile(const AttentionTask& t, const Scratch& s, const Keys& keys, const Values& values, uint32_t base) {
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
      AttendQueries<kQueryRows>(s, keys, values, i, seen), i += kQueryRows;
    } else if (kQueryRows >= 3 && alike(3)) {
      AttendQueries<kQueryRows >= 3 ? 3 : 1>(s, keys, values, i, seen), i += 3;
    } else if (kQueryRows >= 2 && alike(2)) {
      AttendQueries<kQueryRows >= 2 ? 2 : 1>(s, keys, values, i, seen), i += 2;
    } else {
      AttendQueries<1>(s, keys, values, i, seen), i += 1;
    }
  }
}

/// The tile at `base`, which lies in one block, read as it is stored: for few queries.
template <KvDtype kDtype, uint32_t kDim>
void RunStored(const AttentionTask& t, uint32_t base, const Scratch& s) {
  const uint32_t next = t.end - base > kAttentionTile ? base + kAttentionTile : base;
  const auto tile = [&](uint32_t which) {
    return StoredTile<kDtype, kDim>{FindRun(t, which, base, kAttentionTile), FindRun(t, which, next, kAttentionTile).vectors};
  };
  AttendTile(t, s, tile(0), tile(1), base);
}

/// The tile at `base`, widened once.
template <KvDtype kDtype, uint32_t kDim>
void RunWidened(const AttentionTask& t, uint32_t base, uint32_t dim, const Scratch& s) {
  const uint32_t left = t.end - base, present = left < kAttentionTile ? left : kAttentionTile;
  WidenTile<kDtype>(t, 0, base, present, dim, s.keys);
  WidenTile<kDtype>(t, 1, base, present, dim, s.values);
  AttendTile(t, s, WidenedTile<kDim>{s.keys, dim}, WidenedTile<kDim>{s.values, dim}, base);
}

template <KvDtype kDtype>
void RunTile(const AttentionTask& t, uint32_t base, uint32_t dim, const Scratch& s) {
  const bool as_stored = t.rows == 1 && t.layout->block_tokens % kAttentionTile == 0;
  switch (t.layout->head_dim) {
    case 64: return as_stored ? RunStored<kDtype, 64>(t, base, s) : RunWidened<kDtype, 64>(t, base, dim, s);
    case 128: return as_stored ? RunStored<kDtype, 128>(t, base, s) : RunWidened<kDtype, 128>(t, base, dim, s);
    default: return RunWidened<kDtype, 0>(t, base, dim, s);
  }
}

/// The positions [begin, end), which lie in one span, into s.span.
void RunSpan(const AttentionTask& t, uint32_t begin, uint32_t end, uint32_t dim, const Scratch& s) {
  const uint32_t queries = t.rows * t.group;
  std::memset(s.span.sums, 0, size_t{queries} * dim * sizeof(float));
  for (uint32_t i = 0; i < queries; ++i) s.span.top[i] = -INFINITY, s.span.total[i] = 0;
  for (uint32_t base = begin; base < end; base += kAttentionTile) {
    switch (t.layout->dtype) {
      case KvDtype::kF32: RunTile<KvDtype::kF32>(t, base, dim, s); break;
      case KvDtype::kF16: RunTile<KvDtype::kF16>(t, base, dim, s); break;
      case KvDtype::kBf16: RunTile<KvDtype::kBf16>(t, base, dim, s); break;
      case KvDtype::kInt8: RunTile<KvDtype::kInt8>(t, base, dim, s); break;
    }
  }
}

/// Adds query `from_query` of a later span to query `query` of the spans before it.
BATON_INLINE void MergeSpan(const Softmax& from, size_t from_query, uint32_t dim, const Softmax& all, size_t query) {
  const float earlier = all.top[query], later = from.top[from_query];
  if (later == -INFINITY) return;  // sees nothing of that span
  const float top = later > earlier ? later : earlier;
  float lanes[kLanes] = {earlier - top, later - top};
  Store(Exp(Load(lanes)), lanes);
  all.top[query] = top;
  all.total[query] = __builtin_fmaf(all.total[query], lanes[0], from.total[from_query] * lanes[1]);
  for (uint32_t d = 0; d < dim; d += kLanes) {
    float* sums = all.sums + query * dim + d;
    Store(Fma(Load(sums), Set1(lanes[0]), Mul(Load(from.sums + from_query * dim + d), Set1(lanes[1]))), sums);
  }
}

void Finish(const Softmax& all, size_t query, uint32_t dim, uint32_t head_dim, float* out) {
  const F32x16 inverse = Set1(1.0f / all.total[query]);
  const float* sums = all.sums + query * dim;
  Map(sums, sums, head_dim, out, [&](F32x16 a, F32x16) { return Mul(a, inverse); });
}

void Attention(const AttentionTask& t) {
  const uint32_t head_dim = t.layout->head_dim, dim = RoundToLanes(head_dim), queries = t.rows * t.group;
  const F32x16 scale = Set1(1.0f / __builtin_sqrtf(static_cast<float>(head_dim)));
  Scratch s = Divide(t, dim);
  for (uint32_t i = 0; i < queries; ++i) {
    const float* q = t.q + i / t.group * t.q_stride + i % t.group * size_t{head_dim};
    for (uint32_t d = head_dim; d < dim; ++d) s.queries[size_t{i} * dim + d] = 0;
    Map(q, q, head_dim, s.queries + size_t{i} * dim, [&](F32x16 a, F32x16) { return Mul(a, scale); });
  }
  for (uint32_t begin = t.begin; begin < t.end; begin += kAttentionSpan) {
    const uint32_t end = t.end - begin < kAttentionSpan ? t.end : begin + kAttentionSpan;
    if (t.spans != nullptr) s.span = SoftmaxAt(t.spans + size_t{begin / kAttentionSpan} * queries * (dim + 2), queries, dim);
    RunSpan(t, begin, end, dim, s);
    if (t.spans != nullptr) continue;
    if (begin == 0) {
      const Softmax first = s.span;
      s.span = s.all;
      s.all = first;
    } else {
      for (uint32_t i = 0; i < queries; ++i) MergeSpan(s.span, i, dim, s.all, i);
    }
  }
  for (uint32_t i = 0; t.spans == nullptr && i < queries; ++i) {
    Finish(s.all, i, dim, head_dim, t.out + i / t.group * t.out_stride + i % t.group * size_t{head_dim});
  }
}

/// What Attention left in t.spans, for row `row` of the task.
void MergeSpans(const AttentionTask& t, uint32_t row) {
  const uint32_t head_dim = t.layout->head_dim, dim = RoundToLanes(head_dim), queries = t.rows * t.group;
  for (uint32_t i = row * t.group; i < (row + 1) * t.group; ++i) {
    const Softmax all = SoftmaxAt(t.spans, queries, dim);
    for (uint32_t begin = kAttentionSpan; begin < t.start + t.rows; begin += kAttentionSpan) {
      MergeSpan(SoftmaxAt(t.spans + size_t{begin / kAttentionSpan} * queries * (dim + 2), queries, dim), i, dim, all, i);
    }
    Finish(all, i, dim, head_dim, t.out + row * t.out_stride + i % t.group * size_t{head_dim});
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
