#include "worker/prompt_lookup.h"

#include <algorithm>

namespace baton {
namespace {

constexpr size_t kLeastMatch = 2;  // in the sequence itself: one token alone says little about the next
constexpr size_t kMostMatch = 32;  // longer ones are not told apart; bounds the work on texts of one repeated token

/// How many of the last tokens of `a` and `b` are the same.
size_t CommonEnd(std::span<const TokenId> a, std::span<const TokenId> b) {
  const size_t most = std::min({a.size(), b.size(), kMostMatch});
  size_t n = 0;
  while (n < most && a[a.size() - 1 - n] == b[b.size() - 1 - n]) ++n;
  return n;
}

struct Match {
  size_t length = 0, next = 0;  // tokens that agree; index of the one behind them
};

Match LatestIn(std::span<const TokenId> tokens) {
  Match best;
  for (size_t next = tokens.size() - 1; next > 0 && best.length < kMostMatch; --next) {
    if (tokens[next - 1] != tokens.back()) continue;
    const size_t length = CommonEnd(tokens.first(next), tokens);
    if (length > best.length) best = {length, next};
  }
  return best.length < kLeastMatch ? Match() : best;
}

Match EarliestIn(std::span<const TokenId> prediction, std::span<const TokenId> tokens) {
  Match best;
  for (size_t next = 1; next < prediction.size() && best.length < kMostMatch; ++next) {
    if (prediction[next - 1] != tokens.back()) continue;
    const size_t length = CommonEnd(prediction.first(next), tokens);
    if (length > best.length) best = {length, next};
  }
  return best;
}

}  // namespace

void LookUpDraft(std::span<const TokenId> tokens, std::span<const TokenId> prediction, size_t most, std::vector<TokenId>& out) {
  out.clear();
  if (tokens.empty() || most == 0) return;
  const Match here = LatestIn(tokens), there = EarliestIn(prediction, tokens);
  if (there.length > 0 && there.length >= here.length) {
    for (size_t i = there.next; i < prediction.size() && out.size() < most; ++i) out.push_back(prediction[i]);
  } else if (here.length > 0) {
    // Past its own end the text is taken to go on as guessed: a short period is drafted in full.
    for (size_t i = here.next; out.size() < most; ++i) out.push_back(i < tokens.size() ? tokens[i] : out[i - tokens.size()]);
  }
}

}  // namespace baton
