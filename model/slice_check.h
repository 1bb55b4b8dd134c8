// What every Model checks of a batch before it writes anything.
#pragma once

#include <span>

#include "model/model.h"

namespace baton {

/// kInvalid for a token id outside the vocabulary, a position past max_positions, blocks that do not cover the slice,
/// more logit rows than tokens or no place for them.
Status CheckBatch(const ModelInfo& info, const KvLayout& layout, std::span<const SequenceSlice> batch);

}  // namespace baton
