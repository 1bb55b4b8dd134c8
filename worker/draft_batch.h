// The guesses of one step: which sequences' next tokens are guessed, and how many of them are checked.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "kvstore/block_pool.h"
#include "worker/sequence.h"
#include "worker/speculation.h"

namespace baton {

/// What one sequence computes in a step.
struct Run {
  Sequence* sequence = nullptr;
  uint32_t tokens = 0;             // of its own, from computed() on
  std::span<const TokenId> draft;  // guesses that are computed behind them
  float* logits = nullptr;         // a row for its last token and one for each guess, or null

  bool ends_known() const { return sequence->computed() + tokens == sequence->size(); }
  /// What goes into the model: its own tokens, then the guesses.
  std::span<const TokenId> input() const {
    if (!draft.empty()) return {draft.data() - 1, 1 + draft.size()};
    return std::span(sequence->tokens()).subspan(sequence->computed(), tokens);
  }
};

/// What a step computes: rows of one token, guesses behind them, tokens of prompts, and pairs of such a token with one before it.
struct StepWork {
  uint32_t decode_rows = 0, guesses = 0, prefill_tokens = 0;
  double pairs = 0;
};
StepWork WorkOf(const std::vector<Run>& runs);

/// Thread: the engine's. Keeps its buffers between steps.
class DraftBatch {
 public:
  /// Sets the `draft` of runs that decode, as far as checking pays; at most `most` tokens each, in blocks that nobody else asked
  /// for. They are valid until the next call.
  void Choose(const StepCost& cost, uint32_t most, BlockPool& pool, std::vector<Run>& runs);

 private:
  std::vector<DraftOffer> offers_;  // one a run
  std::vector<uint32_t> counts_;    // likewise
  std::vector<TokenId> tokens_;     // for each run with guesses its last token, then they
};

}  // namespace baton
