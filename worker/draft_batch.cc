#include "worker/draft_batch.h"

namespace baton {

void DraftBatch::Choose(const StepCost& cost, uint32_t most, BlockPool& pool, std::vector<Run>& runs) {
  if (most == 0) return;
  offers_.assign(runs.size(), {});
  uint32_t planned = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    planned += runs[i].tokens;
    Sequence& s = *runs[i].sequence;
    if (s.computed() + 1 == s.size()) offers_[i] = {static_cast<uint32_t>(s.Guess(most).size()), s.guesses.rate()};
  }
  ShareRows(cost, planned, offers_, counts_);
  size_t total = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    Sequence& s = *runs[i].sequence;
    if (offers_[i].tokens > 0 && counts_[i] == 0) s.guesses.Skip();
    if (counts_[i] > 0 && !s.Reserve(pool, s.size() + counts_[i])) counts_[i] = 0;
    if (counts_[i] > 0) total += 1 + counts_[i];
  }
  tokens_.clear();
  tokens_.reserve(total);  // spans of it are taken
  for (size_t i = 0; i < runs.size(); ++i) {
    if (counts_[i] == 0) continue;
    const Sequence& s = *runs[i].sequence;
    tokens_.push_back(s.tokens().back());
    const size_t begin = tokens_.size();
    tokens_.insert(tokens_.end(), s.draft().begin(), s.draft().begin() + counts_[i]);
    runs[i].draft = std::span<const TokenId>(tokens_).subspan(begin);
  }
}

StepWork WorkOf(const std::vector<Run>& runs) {
  StepWork work;
  for (const Run& run : runs) {
    work.guesses += static_cast<uint32_t>(run.draft.size());
    if (run.tokens == 1) {
      ++work.decode_rows;
    } else {
      work.prefill_tokens += run.tokens;
      work.pairs += run.tokens * (run.sequence->computed() + run.tokens / 2.0);
    }
  }
  return work;
}

}  // namespace baton
