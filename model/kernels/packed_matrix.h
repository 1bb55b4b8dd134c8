// Weights as the kernels read them. A matrix [out, in] is cut into tiles of 16 outputs; a tile runs over its inputs without
// a gap, so a matmul streams it once. Quantised weights keep their bits: a 4-bit file stays 4 bits a weight in memory.
//
// Integer forms, per tile and block of 32 inputs: value = scale * (q - zero) + min.
//   quants   nibbles: 4 x 64 bytes; byte 4i+j of vector v holds input 4v+j of output i in its low half, input 16+4v+j in its high
//            bytes:   8 x 64 bytes; byte 4i+j of vector v is input 4v+j of output i
//   scales   16 f16, and 16 f16 minima where the form has them
//            "super" forms (K-quants): 16 bytes of sub-scales and 16 of sub-minima (or of the second half's sub-scales), to be
//            multiplied by the 16 f16 scales and 16 f16 (negated) minima that stand before every 8 blocks
// Float forms, per tile: [input][16 outputs] of f32, f16 or bf16.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "model/weights.h"

namespace baton {

constexpr uint32_t kTileRows = 16;    // outputs of one tile
constexpr uint32_t kBlock = 32;       // inputs of one integer block
constexpr uint32_t kSuperBlocks = 8;  // blocks under one header in the super forms

enum class WeightForm : uint8_t {
  kNibble,        // Q4_0
  kNibbleMin,     // Q4_1
  kNibbleTable,   // IQ4_NL: the nibble names an entry of kIq4Table
  kByte,          // Q8_0, Q5_0
  kByteMin,       // Q5_1
  kNibbleSuper,   // Q4_K
  kByteSuper,     // Q5_K
  kByteSuper16,   // Q6_K: a scale every 16 inputs
  kF32, kF16, kBf16,
};
/// The values of IQ4_NL, shifted by 128.
constexpr uint8_t kIq4Table[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

constexpr bool IsInteger(WeightForm form) { return form < WeightForm::kF32; }
constexpr bool IsNibble(WeightForm form) {
  return form <= WeightForm::kNibbleTable || form == WeightForm::kNibbleSuper;
}
constexpr bool IsSuper(WeightForm form) { return form >= WeightForm::kNibbleSuper && form <= WeightForm::kByteSuper16; }
constexpr bool HasMin(WeightForm form) { return form == WeightForm::kNibbleMin || form == WeightForm::kByteMin; }
constexpr uint32_t QuantBytes(WeightForm form) { return IsNibble(form) ? 256 : 512; }
/// Bytes of a tile's block: quants and scales.
constexpr uint32_t BlockBytes(WeightForm form) { return QuantBytes(form) + (IsSuper(form) || !HasMin(form) ? 32 : 64); }
constexpr uint32_t kSuperHeaderBytes = 64;

/// A view: whoever packed or mapped the bytes keeps them alive. 64-byte aligned.
struct PackedMatrix {
  uint32_t rows = 0, cols = 0;  // outputs, inputs
  WeightForm form = WeightForm::kF32;
  int32_t zero = 0;
  const std::byte* data = nullptr;
  uint32_t tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  uint32_t blocks() const { return cols / kBlock; }
  size_t TileBytes() const;
  size_t bytes() const { return TileBytes() * tiles(); }
};

enum class PackRoute : uint8_t { kInteger, kFloat, kRoundToBf16 };

/// The form `tensor` takes, its data still null; kInteger falls back to a float form where the type has no integer one.
PackedMatrix PlanMatrix(const Tensor& tensor, PackRoute route);
/// Fills the tiles [tile_begin, tile_end) at `out`, the place of the whole matrix; any thread, disjoint ranges.
void PackTiles(const Tensor& tensor, const PackedMatrix& plan, PackRoute route, uint32_t tile_begin, uint32_t tile_end, std::byte* out);
/// Row `row` as f32: how the embedding is read. Equals Dequantize of the tensor's row, rounded to bf16 where packed so.
void UnpackRow(const PackedMatrix& m, uint32_t row, float* out);

}  // namespace baton
