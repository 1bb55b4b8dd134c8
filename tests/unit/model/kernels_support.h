// Random tensors, packed and multiplied, for the tests of the kernels.
#pragma once

#include <cstring>
#include <random>
#include <vector>

#include "model/kernels/half.h"
#include "model/kernels/kernels.h"

namespace baton {

constexpr TensorType kTensorTypes[] = {TensorType::kF32,  TensorType::kF16,  TensorType::kBF16, TensorType::kQ4_0,  TensorType::kQ4_1, TensorType::kQ5_0,
                                       TensorType::kQ5_1, TensorType::kQ8_0, TensorType::kQ4_K, TensorType::kQ5_K,  TensorType::kQ6_K, TensorType::kIQ4_NL};

inline std::vector<const Kernels*> AvailableKernels() {
  std::vector<const Kernels*> tables;
  for (const char* isa : {"scalar", "avx2", "avx512"}) {
    const auto table = SelectKernels(isa);
    if (table.ok()) tables.push_back(*table);
  }
  return tables;
}

inline std::vector<float> Randoms(size_t n, uint32_t seed, float size = 1) {
  std::mt19937 generator(seed);
  std::vector<float> values(n);
  for (float& value : values) value = size * (static_cast<float>(generator() % 20001) / 10000 - 1);
  return values;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// A tensor of random blocks with scales of an ordinary size.
struct RandomTensor {
  std::vector<std::byte> bytes;
  Tensor tensor;
  RandomTensor(TensorType type, uint32_t rows, uint32_t cols, uint32_t seed) {
    const TensorTypeInfo& info = *FindTensorType(static_cast<uint32_t>(type));
    tensor.name = "t";
    tensor.type = type;
    tensor.shape = {rows, cols};
    bytes.resize(rows * tensor.RowBytes());
    std::mt19937 generator(seed);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(generator());
    const auto put = [&](size_t at, float value, bool half = true) {
      const uint16_t word = half ? F32ToF16(value) : F32ToBf16(value);
      std::memcpy(&bytes[at], &word, 2);
    };
    const auto value = [&] { return static_cast<float>(generator() % 2001) / 1e5f - 0.01f; };
    if (type == TensorType::kF32) {
      for (size_t i = 0; i < bytes.size(); i += 4) {
        const float f = value();
        std::memcpy(&bytes[i], &f, 4);
      }
    } else if (info.block_elements == 1) {
      for (size_t i = 0; i < bytes.size(); i += 2) put(i, value(), type == TensorType::kF16);
    } else {
      for (size_t block = 0; block < bytes.size(); block += info.block_bytes) {
        put(block + (type == TensorType::kQ6_K ? 208 : 0), value());
        if (type == TensorType::kQ4_1 || type == TensorType::kQ5_1 || type == TensorType::kQ4_K || type == TensorType::kQ5_K) put(block + 2, value());
      }
    }
    tensor.data = bytes;
  }
  std::vector<float> Row(uint32_t row) const {
    std::vector<float> values(tensor.cols());
    Dequantize(tensor.type, tensor.data.data() + row * tensor.RowBytes(), values.size(), values.data());
    return values;
  }
};

struct Packed {
  std::vector<std::byte> memory;
  PackedMatrix matrix;
  Packed(const Tensor& tensor, PackRoute route) : matrix(PlanMatrix(tensor, route)) {
    memory.resize(matrix.bytes());
    matrix.data = memory.data();
    PackTiles(tensor, matrix, route, 0, matrix.tiles(), memory.data());
  }
};

struct Quantised {
  std::vector<std::byte> memory;
  QuantRows rows;
  Quantised(const Kernels& kernels, const std::vector<float>& x, uint32_t count, uint32_t cols, bool one_digit)
      : memory(QuantRows::Bytes(count, cols)), rows{memory.data(), cols / kBlock, one_digit} {
    for (uint32_t r = 0; r < count; ++r) kernels.quantise(&x[size_t{r} * cols], r, 0, cols / kBlock, rows);
  }
};

inline std::vector<float> Multiply(const Kernels& kernels, const PackedMatrix& m, const std::vector<float>& x, uint32_t rows, bool one_digit,
                            const MatmulOut& how = {}) {
  std::vector<float> out(size_t{rows} * m.rows, 0.5f);
  MatmulOut target = how;
  target.data = out.data();
  target.stride = m.rows;
  const uint32_t middle = m.tiles() / 2;  // two ranges, as two threads would
  if (IsInteger(m.form)) {
    const Quantised quantised(kernels, x, rows, m.cols, one_digit);
    kernels.matmul_int(m, quantised.rows, rows, target, middle, m.tiles());
    kernels.matmul_int(m, quantised.rows, rows, target, 0, middle);
  } else {
    kernels.matmul_float(m, x.data(), m.cols, rows, target, middle, m.tiles());
    kernels.matmul_float(m, x.data(), m.cols, rows, target, 0, middle);
  }
  return out;
}

}  // namespace baton
