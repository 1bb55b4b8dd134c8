// The arithmetic of a forward pass, one table of functions an instruction set. Every output element is summed in one fixed
// order whatever the number of rows, threads or the instruction set: vector lanes are outputs (matmul) or a fixed
// 16-lane tree (dots, norms), each step an explicit FMA, integer dots are exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/kv_layout.h"
#include "model/weights.h"

namespace baton {

constexpr uint32_t kTileRows = 16;       // outputs of one weight tile
constexpr uint32_t kBlock = 32;          // elements of an integer block
constexpr uint32_t kAttentionTile = 64;  // positions of one attention tile, counted from position 0

/// A weight matrix [out, in] repacked into tiles of 16 outputs. Either integer (blocks of 32 inputs: value = scale * (q -
/// zero) + min) or f32.
struct PackedMatrix {
  uint32_t rows = 0, cols = 0;  // outputs, inputs
  bool integer = false;
  int32_t zero = 0;
  std::vector<uint8_t> q;      // [tile][block][8][16][4]
  std::vector<float> scale;    // [tile][block][16]
  std::vector<float> min;      // the same, or empty
  std::vector<float> f;        // [tile][col][16]
  uint32_t tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  uint32_t blocks() const { return cols / kBlock; }
};
/// Packs a tensor; integer only for 32-element block types. `round_bf16` rounds f32 values to bf16 first.
PackedMatrix PackMatrix(const Tensor& tensor, bool integer, bool round_bf16);
bool HasIntegerRoute(TensorType type);
/// Row `row` of a packed matrix as f32: how the embedding is read.
void UnpackRow(const PackedMatrix& m, uint32_t row, float* out);

/// Activation rows as two int8 digits a value: x = scale * (256 * high + low) in blocks of 32; `sum` is the block's Σ(256h + l).
struct QuantRows {
  std::vector<int8_t> high, low;  // [row][cols]
  std::vector<float> scale;       // [row][cols / 32]
  std::vector<int32_t> sum;       // [row][cols / 32]
  void Resize(size_t rows, size_t cols);
};

struct AttentionTask {
  const float* q;               // [rows][q_stride], this KV head's group of query heads at its offset
  size_t q_stride;
  float* out;                   // the same shape
  uint32_t rows, start;         // query row i stands at position start + i
  uint32_t group;               // query heads of this KV head, adjacent
  uint32_t kv_head, layer;
  const KvLayout* layout;
  std::byte* const* blocks;
};

struct Kernels {
  std::string_view name;
  /// out[r * out_stride + o] for all rows r and the tiles [tile_begin, tile_end) of m.
  void (*matmul_int)(const PackedMatrix& m, const QuantRows& x, uint32_t rows, float* out, size_t out_stride, uint32_t tile_begin, uint32_t tile_end);
  void (*matmul_f32)(const PackedMatrix& m, const float* x, uint32_t rows, float* out, size_t out_stride, uint32_t tile_begin, uint32_t tile_end);
  void (*quantise)(const float* x, uint32_t cols, bool one_digit, size_t row, QuantRows& out);
  void (*rms_norm)(const float* x, const float* weight, uint32_t n, float eps, float* out);
  void (*silu_mul)(float* gate, const float* up, size_t n);  // gate = silu(gate) * up
  void (*attention)(const AttentionTask& task);
  void (*store_kv)(const float* vector, const KvLayout& layout, std::byte* part, uint32_t head, uint32_t token);
};
/// The table for "auto", "scalar", "avx2" or "avx512". kInvalid for another name, kUnavailable where the CPU lacks it.
Result<const Kernels*> SelectKernels(std::string_view isa);

extern const Kernels kScalarKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels, kAvx512Kernels;
#endif

}  // namespace baton
