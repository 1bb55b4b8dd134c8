// Llama and Qwen2 on the CPU (golden README §3), over paged KV blocks it is given.
#pragma once

#include <memory>

#include "model/kernels/kernels.h"
#include "model/model.h"
#include "model/weights.h"

namespace baton {

/// Repacks `file` (which may be closed afterwards) for the given arithmetic. `threads` is at least 1. `cache_folder`
/// is for the repacked weights (weight_memory.h); empty for none.
Result<std::unique_ptr<Model>> MakeTransformer(const WeightFile& file, Numerics numerics, const KvLayout& layout,
                                               const Kernels& kernels, unsigned threads,
                                               const std::string& cache_folder);

}  // namespace baton
