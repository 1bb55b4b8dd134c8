// What happens to a row between the matmuls. Included by the kernels_*.cc units only.
#pragma once

#include "model/kernels/vec.h"

namespace baton {
namespace {

/// Up to 16 floats, zeros behind them.
BATON_INLINE F32x16 LoadPart(const float* p, uint32_t n) {
  float lanes[kLanes] = {};
  std::memcpy(lanes, p, n * sizeof(float));
  return Load(lanes);
}
BATON_INLINE void StorePart(F32x16 a, float* p, uint32_t n) {
  float lanes[kLanes];
  Store(a, lanes);
  std::memcpy(p, lanes, n * sizeof(float));
}
/// out[i] = function(vector of a at i, the same of b), n of any size.
template <typename Function>
BATON_INLINE void Map(const float* a, const float* b, size_t n, float* out, Function function) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(function(Load(a + i), Load(b + i)), out + i);
  if (i == n) return;
  const auto left = static_cast<uint32_t>(n - i);
  StorePart(function(LoadPart(a + i, left), LoadPart(b + i, left)), out + i, left);
}

void RmsNorm(const float* x, const float* weight, uint32_t n, float eps, float* out) {
  F32x16 squares = Zero();
  uint32_t k = 0;
  for (; k + kLanes <= n; k += kLanes) squares = Fma(Load(x + k), Load(x + k), squares);
  if (k < n) squares = Fma(LoadPart(x + k, n - k), LoadPart(x + k, n - k), squares);
  const F32x16 inverse = Set1(1.0f / __builtin_sqrtf(SumLanes(squares) / static_cast<float>(n) + eps));
  Map(x, weight, n, out, [&](F32x16 a, F32x16 w) { return Mul(Mul(a, inverse), w); });
}

void SiluMul(float* gate, const float* up, size_t n) {
  Map(gate, up, n, gate, [](F32x16 g, F32x16 u) { return Mul(Div(g, Add(Set1(1.0f), Exp(Mul(g, Set1(-1.0f))))), u); });
}

void Rotate(float* v, const float* cos, const float* sin, uint32_t half) {
  uint32_t j = 0;
  for (; j + kLanes <= half; j += kLanes) {
    const F32x16 c = Load(cos + j), s = Load(sin + j), a = Load(v + j), b = Load(v + half + j);
    Store(Sub(Mul(a, c), Mul(b, s)), v + j);
    Store(Add(Mul(b, c), Mul(a, s)), v + half + j);
  }
  for (; j < half; ++j) {
    const float a = v[j], b = v[half + j];
    v[j] = a * cos[j] - b * sin[j];
    v[half + j] = b * cos[j] + a * sin[j];
  }
}

}  // namespace
}  // namespace baton
