// Reading the vectors of KV blocks as f32, for dumps, exports and tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "model/kv_layout.h"

namespace baton {

/// The vector of (layer, which, head) at absolute `position` of a sequence's blocks; `out` has head_dim floats. `which`: 0 K,
/// 1 V. The blocks cover the position.
void ReadKvVector(const KvLayout& layout, std::span<std::byte* const> blocks, uint32_t layer, uint32_t which, uint32_t head,
                  uint32_t position, float* out);

}  // namespace baton
