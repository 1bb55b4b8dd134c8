#include "model/slice_check.h"

#include "base/bytes.h"

namespace baton {
namespace {

Status CheckSlice(const ModelInfo& info, const KvLayout& layout, const SequenceSlice& slice, size_t index) {
  const uint64_t end = uint64_t{slice.start} + slice.tokens.size();
  if (slice.tokens.empty()) return InvalidError("slice {} has no tokens", index);
  if (end > info.max_positions) {
    return InvalidError("slice {} ends at position {}, the model has {}", index, end, info.max_positions);
  }
  for (size_t i = 0; i < slice.tokens.size(); ++i) {
    const TokenId token = slice.tokens[i];
    if (token < 0 || static_cast<uint32_t>(token) >= info.vocab) {
      return InvalidError("slice {}: token {} at position {} is outside the vocabulary of {}", index, token,
                          slice.start + i, info.vocab);
    }
  }
  const uint64_t needed = CeilDiv(end, layout.block_tokens);
  if (slice.blocks.size() < needed) {
    return InvalidError("slice {} needs {} blocks for {} positions, got {}", index, needed, end, slice.blocks.size());
  }
  for (size_t i = 0; i < needed; ++i) {
    if (slice.blocks[i] == nullptr) return InvalidError("slice {}: block {} is null", index, i);
  }
  if (slice.logit_rows > slice.tokens.size()) {
    return InvalidError("slice {} asks for {} rows of logits of {} tokens", index, slice.logit_rows, slice.tokens.size());
  }
  if (slice.logit_rows > 0 && slice.logits == nullptr) return InvalidError("slice {} has no place for its logits", index);
  return OkStatus();
}

}  // namespace

Status CheckBatch(const ModelInfo& info, const KvLayout& layout, std::span<const SequenceSlice> batch) {
  for (size_t i = 0; i < batch.size(); ++i) RETURN_IF_ERROR(CheckSlice(info, layout, batch[i], i));
  return OkStatus();
}

}  // namespace baton
