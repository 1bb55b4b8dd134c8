// Why a prompt's blocks are in a store, or are not.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/block_key.h"
#include "kvstore/block_store.h"

namespace baton {

struct BlockVerdict {
  enum class Reason {
    kHit,         // held; `memory` and `disk` say where
    kDiffers,     // what is held in its place has another token at `position`
    kSalt,        // the same tokens are held under another root: another tenant or cache_salt
    kParent,      // it may be held, but a block before it is not, so nobody reaches it
    kEvicted,     // was held; `evicted_unix_s` says until when
    kNeverStored  // nothing is known of it
  };
  BlockKey key;
  uint32_t depth = 0;
  Reason reason = Reason::kNeverStored;
  bool memory = false, disk = false;
  size_t position = 0;                     // of the token that differs, counted from the prompt's start
  TokenId asked = -1, stored = -1;         // the token there
  double evicted_unix_s = 0;

  const char* name() const;
};

/// One verdict for each full block of `tokens` in the chain of `root`. Reads the headers of blocks that stand where a missing
/// one would; counts as no use. Takes time linear in what the store holds: for people, not for requests.
std::vector<BlockVerdict> ExplainBlocks(BlockStore& store, const BlockKey& root, std::span<const TokenId> tokens, size_t block_tokens);

/// The verdict as one JSON object, for example {"block":3,"key":"…","hit":false,"reason":"token_differs",…}.
std::string VerdictJson(const BlockVerdict& verdict);

}  // namespace baton
