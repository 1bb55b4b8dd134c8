#include "model/kernels/packed_matrix.h"

#include <algorithm>
#include <cstring>

#include "model/kernels/half.h"

namespace baton {
namespace {

/// 32 weights of one row: value = scale * sub_scale[half] * (q - zero) + min * sub_min, the subs only in super forms.
struct Block {
  uint8_t q[kBlock];
  uint16_t scale = 0, min = 0;  // f16
  uint8_t sub_scale[2] = {}, sub_min = 0;
};

uint16_t Word(const uint8_t* p) {
  uint16_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

void SplitNibbles(const uint8_t* p, uint8_t* q) {
  for (uint32_t i = 0; i < 16; ++i) {
    q[i] = p[i] & 15;
    q[i + 16] = p[i] >> 4;
  }
}

void ReadSmallBlock(TensorType type, const uint8_t* p, Block& out) {
  out.scale = Word(p);
  p += 2;
  if (type == TensorType::kQ4_1 || type == TensorType::kQ5_1) out.min = Word(p), p += 2;
  if (type == TensorType::kQ8_0) {
    for (uint32_t i = 0; i < kBlock; ++i) out.q[i] = static_cast<uint8_t>(p[i] + 128);
    return;
  }
  uint32_t fifth = 0;
  if (type == TensorType::kQ5_0 || type == TensorType::kQ5_1) std::memcpy(&fifth, p, 4), p += 4;
  SplitNibbles(p, out.q);
  for (uint32_t i = 0; i < kBlock; ++i) out.q[i] = static_cast<uint8_t>(out.q[i] | (((fifth >> i) & 1) << 4));
}

/// Block `index` (0..7) of a Q4_K or Q5_K super-block.
void ReadKBlock(TensorType type, const uint8_t* p, uint32_t index, Block& out) {
  const uint8_t* s = p + 4;
  out.scale = Word(p);
  out.min = static_cast<uint16_t>(Word(p + 2) ^ 0x8000u);
  if (index < 4) {
    out.sub_scale[0] = s[index] & 63;
    out.sub_min = s[index + 4] & 63;
  } else {
    out.sub_scale[0] = static_cast<uint8_t>((s[index + 4] & 15) | ((s[index - 4] >> 6) << 4));
    out.sub_min = static_cast<uint8_t>((s[index + 4] >> 4) | ((s[index] >> 6) << 4));
  }
  const bool five = type == TensorType::kQ5_K;
  const uint8_t* nibbles = p + (five ? 48 : 16) + 32 * (index / 2);
  for (uint32_t i = 0; i < kBlock; ++i) {
    out.q[i] = (nibbles[i] >> (4 * (index % 2))) & 15;
    if (five) out.q[i] = static_cast<uint8_t>(out.q[i] | (((p[16 + i] >> index) & 1) << 4));
  }
}

void ReadQ6Block(const uint8_t* p, uint32_t index, Block& out) {
  const uint32_t half = index / 4, quarter = index % 4;
  out.scale = Word(p + 208);
  for (uint32_t i = 0; i < 2; ++i) out.sub_scale[i] = p[192 + 2 * index + i];
  for (uint32_t i = 0; i < kBlock; ++i) {
    const uint8_t low = p[64 * half + 32 * (quarter % 2) + i], high = p[128 + 32 * half + i];
    out.q[i] = static_cast<uint8_t>(((low >> (4 * (quarter / 2))) & 15) | (((high >> (2 * quarter)) & 3) << 4));
  }
}

void ReadBlock(TensorType type, const uint8_t* row, uint32_t index, uint32_t block_bytes, Block& out) {
  if (type == TensorType::kQ4_K || type == TensorType::kQ5_K) {
    ReadKBlock(type, row + index / kSuperBlocks * block_bytes, index % kSuperBlocks, out);
  } else if (type == TensorType::kQ6_K) {
    ReadQ6Block(row + index / kSuperBlocks * block_bytes, index % kSuperBlocks, out);
  } else {
    ReadSmallBlock(type, row + size_t{index} * block_bytes, out);
  }
}

/// Offset of block b's record in its tile.
size_t RecordOffset(WeightForm form, uint32_t b) {
  return size_t{b} * BlockBytes(form) + (IsSuper(form) ? size_t{b / kSuperBlocks + 1} * kSuperHeaderBytes : 0);
}

uint8_t* At(std::byte* p) { return reinterpret_cast<uint8_t*>(p); }
void PutWord(uint8_t* p, uint16_t word) { std::memcpy(p, &word, sizeof word); }

void WriteBlock(const Block& block, WeightForm form, uint32_t b, uint32_t lane, uint8_t* tile) {
  uint8_t* record = tile + RecordOffset(form, b);
  for (uint32_t k = 0; k < kBlock; ++k) {
    const uint32_t place = (k % 16 / 4) * 64 + lane * 4 + k % 4;
    if (!IsNibble(form)) record[(k / 16) * 256 + place] = block.q[k];
    else record[place] = static_cast<uint8_t>(k < 16 ? block.q[k] : record[place] | (block.q[k] << 4));
  }
  uint8_t* scales = record + QuantBytes(form);
  if (!IsSuper(form)) {
    PutWord(scales + 2 * lane, block.scale);
    if (HasMin(form)) PutWord(scales + 32 + 2 * lane, block.min);
    return;
  }
  scales[lane] = block.sub_scale[0];
  scales[16 + lane] = form == WeightForm::kByteSuper16 ? block.sub_scale[1] : block.sub_min;
  if (b % kSuperBlocks != 0) return;
  PutWord(record - kSuperHeaderBytes + 2 * lane, block.scale);
  PutWord(record - kSuperHeaderBytes + 32 + 2 * lane, block.min);
}

void PackIntegerTile(const Tensor& tensor, const PackedMatrix& plan, uint32_t tile, std::byte* out) {
  const uint32_t block_bytes = FindTensorType(static_cast<uint32_t>(tensor.type))->block_bytes;
  std::memset(out, 0, plan.TileBytes());
  Block block;
  for (uint32_t lane = 0; lane < kTileRows && tile * kTileRows + lane < plan.rows; ++lane) {
    const auto* row = reinterpret_cast<const uint8_t*>(tensor.data.data() + (size_t{tile} * kTileRows + lane) * tensor.RowBytes());
    for (uint32_t b = 0; b < plan.blocks(); ++b) {
      ReadBlock(tensor.type, row, b, block_bytes, block);
      WriteBlock(block, plan.form, b, lane, At(out));
    }
  }
}

void PackFloatTile(const Tensor& tensor, const PackedMatrix& plan, PackRoute route, uint32_t tile, std::byte* out) {
  std::memset(out, 0, plan.TileBytes());
  std::vector<float> values(plan.cols);
  for (uint32_t lane = 0; lane < kTileRows && tile * kTileRows + lane < plan.rows; ++lane) {
    const std::byte* row = tensor.data.data() + (size_t{tile} * kTileRows + lane) * tensor.RowBytes();
    const bool stored = plan.form != WeightForm::kF32 && route != PackRoute::kRoundToBf16;  // 16-bit words as they are
    if (!stored) Dequantize(tensor.type, row, plan.cols, values.data());
    for (uint32_t k = 0; k < plan.cols; ++k) {
      const size_t place = size_t{k} * kTileRows + lane;
      if (plan.form == WeightForm::kF32) std::memcpy(out + place * 4, &values[k], 4);
      else PutWord(At(out) + place * 2, stored ? Word(reinterpret_cast<const uint8_t*>(row) + 2 * k) : F32ToBf16(values[k]));
    }
  }
}

void UnpackIntegers(const PackedMatrix& m, const uint8_t* tile, uint32_t lane, float* out) {
  for (uint32_t b = 0; b < m.blocks(); ++b) {
    const uint8_t* record = tile + RecordOffset(m.form, b);
    const uint8_t* scales = record + QuantBytes(m.form);
    float scale[2], min = HasMin(m.form) ? F16ToF32(Word(scales + 32 + 2 * lane)) : 0.0f;
    if (IsSuper(m.form)) {
      const uint8_t* header = tile + RecordOffset(m.form, b / kSuperBlocks * kSuperBlocks) - kSuperHeaderBytes;
      const float whole = F16ToF32(Word(header + 2 * lane));
      const bool halves = m.form == WeightForm::kByteSuper16;
      scale[0] = whole * static_cast<float>(static_cast<int8_t>(scales[lane]));
      scale[1] = halves ? whole * static_cast<float>(static_cast<int8_t>(scales[16 + lane])) : scale[0];
      if (!halves) min = F16ToF32(Word(header + 32 + 2 * lane)) * static_cast<float>(scales[16 + lane]);
    } else {
      scale[0] = scale[1] = F16ToF32(Word(scales + 2 * lane));
    }
    for (uint32_t k = 0; k < kBlock; ++k) {
      const uint32_t place = (k % 16 / 4) * 64 + lane * 4 + k % 4;
      uint32_t q = IsNibble(m.form) ? (record[place] >> (k < 16 ? 0 : 4)) & 15u : record[(k / 16) * 256 + place];
      if (m.form == WeightForm::kNibbleTable) q = kIq4Table[q];
      const float value = scale[k / 16] * static_cast<float>(static_cast<int32_t>(q) - m.zero);
      out[b * kBlock + k] = HasMin(m.form) || (IsSuper(m.form) && m.form != WeightForm::kByteSuper16) ? value + min : value;
    }
  }
}

WeightForm FormOf(TensorType type, PackRoute route) {
  if (route == PackRoute::kInteger) {
    switch (type) {
      case TensorType::kQ4_0: return WeightForm::kNibble;
      case TensorType::kQ4_1: return WeightForm::kNibbleMin;
      case TensorType::kIQ4_NL: return WeightForm::kNibbleTable;
      case TensorType::kQ5_0:
      case TensorType::kQ8_0: return WeightForm::kByte;
      case TensorType::kQ5_1: return WeightForm::kByteMin;
      case TensorType::kQ4_K: return WeightForm::kNibbleSuper;
      case TensorType::kQ5_K: return WeightForm::kByteSuper;
      case TensorType::kQ6_K: return WeightForm::kByteSuper16;
      default: break;
    }
  }
  if (type == TensorType::kBF16 || route == PackRoute::kRoundToBf16) return WeightForm::kBf16;
  return type == TensorType::kF16 ? WeightForm::kF16 : WeightForm::kF32;
}

int32_t ZeroOf(TensorType type) {
  switch (type) {
    case TensorType::kQ4_0: return 8;
    case TensorType::kQ5_0: return 16;
    case TensorType::kQ6_K: return 32;
    case TensorType::kQ8_0:
    case TensorType::kIQ4_NL: return 128;
    default: return 0;
  }
}

}  // namespace

size_t PackedMatrix::TileBytes() const {
  if (!IsInteger(form)) return size_t{cols} * kTileRows * (form == WeightForm::kF32 ? 4 : 2);
  return size_t{blocks()} * BlockBytes(form) + (IsSuper(form) ? size_t{blocks() / kSuperBlocks} * kSuperHeaderBytes : 0);
}

PackedMatrix PlanMatrix(const Tensor& tensor, PackRoute route) {
  PackedMatrix m;
  m.rows = static_cast<uint32_t>(tensor.rows());
  m.cols = static_cast<uint32_t>(tensor.cols());
  m.form = FormOf(tensor.type, route);
  m.zero = IsInteger(m.form) ? ZeroOf(tensor.type) : 0;
  return m;
}

void PackTiles(const Tensor& tensor, const PackedMatrix& plan, PackRoute route, uint32_t tile_begin, uint32_t tile_end, std::byte* out) {
  for (uint32_t tile = tile_begin; tile < tile_end; ++tile) {
    std::byte* place = out + tile * plan.TileBytes();
    if (IsInteger(plan.form)) PackIntegerTile(tensor, plan, tile, place);
    else PackFloatTile(tensor, plan, route, tile, place);
  }
}

void UnpackRow(const PackedMatrix& m, uint32_t row, float* out) {
  const auto* tile = reinterpret_cast<const uint8_t*>(m.data + row / kTileRows * m.TileBytes());
  const uint32_t lane = row % kTileRows;
  if (IsInteger(m.form)) return UnpackIntegers(m, tile, lane, out);
  for (uint32_t k = 0; k < m.cols; ++k) {
    const size_t place = size_t{k} * kTileRows + lane;
    if (m.form == WeightForm::kF32) std::memcpy(&out[k], tile + place * 4, 4);
    else out[k] = m.form == WeightForm::kF16 ? F16ToF32(Word(tile + place * 2)) : Bf16ToF32(Word(tile + place * 2));
  }
}

}  // namespace baton
