// What a warming job computes, and in which order. The prompts of the corpus form a forest of blocks: prompts with a common
// beginning share its blocks, because a block's key names all tokens up to its end. The forest is cut into steps, runs of
// blocks without a branch, and each step is one request that computes just its own blocks:
//
//   line 1   A B C D        step 0   A B C    used by two prompts
//   line 2   A B C E F      step 1   E F      follows 0
//                           step 2   D        follows 0
//
// A step follows the one it branches off, so what is shared is computed once and found in the store by the others. Steps that
// save most seconds per byte come first, for the job may be killed and the store may be too small: blocks have one size and
// nearly one cost, so that is the number of prompts that use them, then the length of the longest prompt behind them.
//
// Pure: no clock, no I/O. Thread: one.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/block_key.h"
#include "base/ids.h"

namespace baton {

struct WarmStep {
  uint32_t last = 0;                // index of its last block in the plan
  uint32_t blocks = 0;              // that it computes: `last` and those right before it
  std::optional<uint32_t> follows;  // index of the step that must have ended before; always a smaller one
};

class WarmPlan {
 public:
  explicit WarmPlan(uint32_t block_tokens) : block_tokens_(block_tokens) {}

  /// Adds the full blocks of a prompt; what is left over is no block. `root` is that of `tenant`. Gives the number of blocks.
  size_t Add(const BlockKey& root, const std::string& tenant, std::span<const TokenId> tokens);
  /// The blocks that no other follows: each ends one distinct prefix.
  std::vector<uint32_t> Ends() const;
  /// The leading `held` blocks of the prefix that ends with `end` are in the store.
  void MarkHeld(uint32_t end, size_t held);
  /// The steps that compute all blocks not held, best first, none of more than `max_blocks` blocks.
  std::vector<WarmStep> Steps(uint32_t max_blocks) const;

  /// Of the prefix that ends with `block`: keys of its last `count` blocks, all its tokens, its length and tenant.
  std::vector<BlockKey> Keys(uint32_t block, size_t count) const;
  std::vector<TokenId> Tokens(uint32_t block) const;
  size_t Depth(uint32_t block) const { return blocks_[block].depth + 1; }
  const std::string& Tenant(uint32_t block) const { return tenants_[blocks_[block].tenant]; }

  size_t blocks() const { return blocks_.size(); }
  size_t held() const { return held_; }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Block {
    BlockKey key;
    uint32_t parent = kNone, tenant = 0, depth = 0, uses = 0, children = 0;
    bool held = false;
  };
  uint32_t TenantIndex(const std::string& tenant);

  const uint32_t block_tokens_;
  std::vector<Block> blocks_;     // parents before children
  std::vector<TokenId> tokens_;   // block_tokens of each block
  std::vector<std::string> tenants_;
  std::unordered_map<BlockKey, uint32_t> index_;
  std::unordered_map<std::string, uint32_t> tenant_index_;
  size_t held_ = 0;
};

}  // namespace baton
