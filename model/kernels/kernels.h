// The arithmetic of a forward pass, one table of functions an instruction set. Every output element is computed in one
// fixed order whatever the number of rows, the thread or the instruction set: vector lanes are outputs (matmul), positions
// (attention scores) or a fixed 16-lane tree (norms, sums), each step an explicit FMA; integer dots are exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/status.h"
#include "model/kernels/packed_matrix.h"
#include "model/kv_layout.h"

namespace baton {

constexpr uint32_t kAttentionTile = 64;   // positions of one attention tile, counted from position 0
constexpr uint32_t kAttentionSpan = 256;  // positions whose softmax is one chain; spans are merged in ascending order

/// Activation rows as integers: x = scale * t in blocks of 32, |t| <= 127 (one digit) or 32512 (two digits, exact to 15
/// bits). A view of memory of Bytes(); how digits lie in it is the kernel set's own affair. Rows are quantised one by one
/// or block by block, in any order and from any thread.
struct QuantRows {
  std::byte* data = nullptr;
  uint32_t blocks = 0;        // of 32, a row
  bool one_digit = false;
  static size_t Bytes(size_t rows, size_t cols) { return RoundUp(rows, 8) * (cols / kBlock) * 80; }
};

/// Where a matmul puts output o of row r: data[r * stride + o - origin] = (add ? that + : ) sum (+ bias[o]).
struct MatmulOut {
  float* data;
  size_t stride;
  const float* bias = nullptr;
  bool add = false;
  uint32_t origin = 0;
};

/// Causal attention of a run of query rows of one sequence with one KV head, over all positions or some of the spans.
struct AttentionTask {
  const float* q;         // [rows][q_stride], this KV head's group of query heads first
  size_t q_stride;
  float* out;             // [rows][out_stride]
  size_t out_stride;
  uint32_t rows, start;   // query row i stands at position start + i
  uint32_t group;         // query heads of this KV head, adjacent
  uint32_t kv_head, layer;
  const KvLayout* layout;
  std::byte* const* blocks;
  float* scratch;         // ScratchFloats()
  uint32_t begin, end;    // positions looked at; begin is a span's first, end the next span's or start + rows
  float* spans;           // null: all positions are looked at, `out` is written; else SpanFloats(), for MergeSpans

  static size_t ScratchFloats(const KvLayout& layout, uint32_t rows, uint32_t group);
  /// What the spans of `positions` positions need between Attention and MergeSpans.
  static size_t SpanFloats(const KvLayout& layout, uint32_t rows, uint32_t group, uint32_t positions);
};

/// Thread: any; outputs must not overlap.
struct Kernels {
  std::string_view name;
  /// All rows, the tiles [tile_begin, tile_end) of m, which has an integer form.
  void (*matmul_int)(const PackedMatrix& m, const QuantRows& x, uint32_t rows, const MatmulOut& out, uint32_t tile_begin, uint32_t tile_end);
  /// x is [rows][x_stride], m has a float form.
  void (*matmul_float)(const PackedMatrix& m, const float* x, size_t x_stride, uint32_t rows, const MatmulOut& out, uint32_t tile_begin, uint32_t tile_end);
  /// Blocks [begin, end) of row `row`; x is the row's start.
  void (*quantise)(const float* x, uint32_t row, uint32_t begin, uint32_t end, const QuantRows& out);
  void (*rms_norm)(const float* x, const float* weight, uint32_t n, float eps, float* out);
  void (*silu_mul)(float* gate, const float* up, size_t n);  // gate = silu(gate) * up
  /// Rotates the pairs (v[j], v[j + half]).
  void (*rotate)(float* v, const float* cos, const float* sin, uint32_t half);
  void (*attention)(const AttentionTask& task);
  /// Writes row `row` of out once all spans of a task were looked at; leaves `spans` of no further use for that row.
  void (*merge_spans)(const AttentionTask& task, uint32_t row);
  /// Integer multiply-adds in registers alone: how fast this instruction set could be. Returns how many were done; *sink keeps
  /// the compiler honest.
  uint64_t (*dot_peak)(uint64_t rounds, int32_t* sink);
  void (*store_kv)(const float* vector, const KvLayout& layout, std::byte* part, uint32_t head, uint32_t token);
};
/// The table for "auto", "scalar", "avx2" or "avx512". kInvalid for another name, kUnavailable where the CPU lacks it.
Result<const Kernels*> SelectKernels(std::string_view isa);

extern const Kernels kScalarKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels, kAvx512Kernels;
#endif

}  // namespace baton
