#include "app/warm_plan.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace baton {

uint32_t WarmPlan::TenantIndex(const std::string& tenant) {
  const auto [found, is_new] = tenant_index_.try_emplace(tenant, static_cast<uint32_t>(tenants_.size()));
  if (is_new) tenants_.push_back(tenant);
  return found->second;
}

size_t WarmPlan::Add(const BlockKey& root, const std::string& tenant, std::span<const TokenId> tokens) {
  const std::vector<BlockKey> chain = KeyChain(root, tokens, block_tokens_);
  const uint32_t owner = TenantIndex(tenant);
  uint32_t parent = kNone;
  for (size_t i = 0; i < chain.size(); ++i) {
    const auto [found, is_new] = index_.try_emplace(chain[i], static_cast<uint32_t>(blocks_.size()));
    if (is_new) {
      if (parent != kNone) ++blocks_[parent].children;
      blocks_.push_back({chain[i], parent, owner, static_cast<uint32_t>(i)});
      const auto own = tokens.subspan(i * block_tokens_, block_tokens_);
      tokens_.insert(tokens_.end(), own.begin(), own.end());
    }
    parent = found->second;
    ++blocks_[parent].uses;
  }
  return chain.size();
}

std::vector<uint32_t> WarmPlan::Ends() const {
  std::vector<uint32_t> ends;
  for (uint32_t i = 0; i < blocks_.size(); ++i) {
    if (blocks_[i].children == 0) ends.push_back(i);
  }
  return ends;
}

void WarmPlan::MarkHeld(uint32_t end, size_t held) {
  for (uint32_t i = end; i != kNone; i = blocks_[i].parent) {
    if (blocks_[i].depth >= held || blocks_[i].held) continue;
    blocks_[i].held = true;
    ++held_;
  }
}

std::vector<WarmStep> WarmPlan::Steps(uint32_t max_blocks) const {
  struct Draft {
    WarmStep step;
    uint32_t first;  // block
  };
  std::vector<uint32_t> deepest(blocks_.size()), step_of(blocks_.size(), kNone);
  for (size_t i = blocks_.size(); i-- > 0;) {
    deepest[i] = std::max(deepest[i], blocks_[i].depth);
    if (const uint32_t parent = blocks_[i].parent; parent != kNone) deepest[parent] = std::max(deepest[parent], deepest[i]);
  }
  std::vector<Draft> drafts;
  for (uint32_t i = 0; i < blocks_.size(); ++i) {
    if (blocks_[i].held) continue;
    const uint32_t parent = blocks_[i].parent;
    const uint32_t before = parent == kNone ? kNone : step_of[parent];
    if (before != kNone && blocks_[parent].children == 1 && drafts[before].step.blocks < max_blocks) {
      step_of[i] = before;
      drafts[before].step.last = i;
      ++drafts[before].step.blocks;
      continue;
    }
    step_of[i] = static_cast<uint32_t>(drafts.size());
    drafts.push_back({{i, 1, before == kNone ? std::nullopt : std::optional(before)}, i});
  }
  // A step sorts behind the one it follows: that has as many uses or more, as deep an end, and begins earlier.
  const auto rank = [&](uint32_t d) {
    const Block& first = blocks_[drafts[d].first];
    return std::make_tuple(~first.uses, ~deepest[drafts[d].first], first.depth, d);
  };
  std::vector<uint32_t> order(drafts.size()), place(drafts.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return rank(a) < rank(b); });
  std::vector<WarmStep> steps;
  for (const uint32_t d : order) {
    place[d] = static_cast<uint32_t>(steps.size());
    WarmStep& step = steps.emplace_back(drafts[d].step);
    if (step.follows) step.follows = place[*step.follows];
  }
  return steps;
}

std::vector<BlockKey> WarmPlan::Keys(uint32_t block, size_t count) const {
  std::vector<BlockKey> keys;
  for (uint32_t i = block; i != kNone && keys.size() < count; i = blocks_[i].parent) keys.push_back(blocks_[i].key);
  std::reverse(keys.begin(), keys.end());
  return keys;
}

std::vector<TokenId> WarmPlan::Tokens(uint32_t block) const {
  std::vector<TokenId> tokens(Depth(block) * block_tokens_);
  for (uint32_t i = block; i != kNone; i = blocks_[i].parent) {
    std::copy_n(tokens_.begin() + static_cast<ptrdiff_t>(size_t{i} * block_tokens_), block_tokens_,
                tokens.begin() + static_cast<ptrdiff_t>(size_t{blocks_[i].depth} * block_tokens_));
  }
  return tokens;
}

}  // namespace baton
