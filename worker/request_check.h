// What a request must be before the engine takes it, so that no later step can fail on its account.
#pragma once

#include "base/status.h"
#include "model/model.h"
#include "worker/engine.h"

namespace baton {

/// Errors: kInvalid; names the field, its value and the limit.
Status CheckRequest(const EngineRequest& request, const ModelInfo& info, uint32_t block_tokens, size_t pool_blocks);

}  // namespace baton
