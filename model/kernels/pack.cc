// Repacking rows of a model file into tiles of 16 outputs.
#include <cstring>

#include "model/kernels/half.h"
#include "model/kernels/kernels.h"

namespace baton {
namespace {

constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

float Half(const std::byte* p) {
  uint16_t h;
  std::memcpy(&h, p, sizeof h);
  return F16ToF32(h);
}

struct Block {
  float scale = 0, min = 0;
  uint8_t q[kBlock];
};

bool HasMin(TensorType type) { return type == TensorType::kQ4_1 || type == TensorType::kQ5_1; }

int32_t ZeroOf(TensorType type) {
  switch (type) {
    case TensorType::kQ4_0: return 8;
    case TensorType::kQ5_0: return 16;
    case TensorType::kQ8_0:
    case TensorType::kIQ4_NL: return 128;
    default: return 0;
  }
}

void ReadBlock(TensorType type, const std::byte* p, Block& out) {
  out.scale = Half(p);
  p += 2;
  if (HasMin(type)) out.min = Half(p), p += 2;
  if (type == TensorType::kQ8_0) {
    for (uint32_t i = 0; i < kBlock; ++i) out.q[i] = static_cast<uint8_t>(static_cast<int8_t>(p[i]) + 128);
    return;
  }
  uint32_t fifth = 0;
  const bool five = type == TensorType::kQ5_0 || type == TensorType::kQ5_1;
  if (five) std::memcpy(&fifth, p, 4), p += 4;
  for (uint32_t i = 0; i < 16; ++i) {
    const uint8_t byte = static_cast<uint8_t>(p[i]);
    out.q[i] = byte & 15;
    out.q[i + 16] = byte >> 4;
  }
  for (uint32_t i = 0; i < kBlock; ++i) {
    if (five) out.q[i] = static_cast<uint8_t>(out.q[i] | (((fifth >> i) & 1) << 4));
    if (type == TensorType::kIQ4_NL) out.q[i] = static_cast<uint8_t>(kIq4Values[out.q[i]] + 128);
  }
}

void PackIntegers(const Tensor& tensor, PackedMatrix& m) {
  const size_t blocks = m.blocks(), block_bytes = FindTensorType(static_cast<uint32_t>(tensor.type))->block_bytes;
  m.zero = ZeroOf(tensor.type);
  m.q.assign(size_t{m.tiles()} * blocks * kBlock * kTileRows, 0);
  m.scale.assign(size_t{m.tiles()} * blocks * kTileRows, 0.0f);
  if (HasMin(tensor.type)) m.min.assign(m.scale.size(), 0.0f);
  Block block;
  for (uint32_t row = 0; row < m.rows; ++row) {
    const std::byte* data = tensor.data.data() + row * tensor.RowBytes();
    const uint32_t lane = row % kTileRows;
    for (size_t b = 0; b < blocks; ++b) {
      ReadBlock(tensor.type, data + b * block_bytes, block);
      const size_t at = (row / kTileRows) * blocks + b;
      m.scale[at * kTileRows + lane] = block.scale;
      if (!m.min.empty()) m.min[at * kTileRows + lane] = block.min;
      uint8_t* q = m.q.data() + at * kBlock * kTileRows;
      for (uint32_t k = 0; k < kBlock; ++k) q[(k / 4) * 64 + lane * 4 + k % 4] = block.q[k];
    }
  }
}

}  // namespace

bool HasIntegerRoute(TensorType type) {
  return HasMin(type) || ZeroOf(type) != 0;
}

PackedMatrix PackMatrix(const Tensor& tensor, bool integer, bool round_bf16) {
  PackedMatrix m;
  m.rows = static_cast<uint32_t>(tensor.rows());
  m.cols = static_cast<uint32_t>(tensor.cols());
  m.integer = integer && HasIntegerRoute(tensor.type);
  if (m.integer) {
    PackIntegers(tensor, m);
    return m;
  }
  m.f.assign(size_t{m.tiles()} * m.cols * kTileRows, 0.0f);
  std::vector<float> row_values(m.cols);
  for (uint32_t row = 0; row < m.rows; ++row) {
    Dequantize(tensor.type, tensor.data.data() + row * tensor.RowBytes(), m.cols, row_values.data());
    float* out = m.f.data() + size_t{row / kTileRows} * m.cols * kTileRows + row % kTileRows;
    for (uint32_t k = 0; k < m.cols; ++k) out[size_t{k} * kTileRows] = round_bf16 ? Bf16ToF32(F32ToBf16(row_values[k])) : row_values[k];
  }
  return m;
}

void UnpackRow(const PackedMatrix& m, uint32_t row, float* out) {
  const uint32_t tile = row / kTileRows, lane = row % kTileRows;
  if (!m.integer) {
    for (uint32_t k = 0; k < m.cols; ++k) out[k] = m.f[(size_t{tile} * m.cols + k) * kTileRows + lane];
    return;
  }
  for (uint32_t k = 0; k < m.cols; ++k) {
    const size_t at = size_t{tile} * m.blocks() + k / kBlock;
    const uint8_t q = m.q[at * kBlock * kTileRows + (k % kBlock / 4) * 64 + lane * 4 + k % 4];
    const float value = m.scale[at * kTileRows + lane] * static_cast<float>(static_cast<int32_t>(q) - m.zero);
    out[k] = m.min.empty() ? value : value + m.min[at * kTileRows + lane];
  }
}

void QuantRows::Resize(size_t rows, size_t cols) {
  high.resize(rows * cols);
  low.resize(rows * cols);
  scale.resize(rows * (cols / kBlock));
  sum.resize(rows * (cols / kBlock));
}

}  // namespace baton
