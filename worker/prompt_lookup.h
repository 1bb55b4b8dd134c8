// A guess at how a text goes on, from what was said before: where its last tokens occur earlier, what followed them there. Free
// to make, and right often where an answer quotes, edits or repeats; a wrong guess costs only the rows that checked it.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/ids.h"

namespace baton {

/// Up to `most` tokens that may follow `tokens`, into `out` (overwritten; empty when nothing is found). The longest match of the
/// end of `tokens` counts, of at least two tokens, the latest of equals. `prediction` is text that the client expects in the
/// answer: there one token is enough and the earliest of equals counts. A pure function, linear in both.
void LookUpDraft(std::span<const TokenId> tokens, std::span<const TokenId> prediction, size_t most, std::vector<TokenId>& out);

}  // namespace baton
