#include "kvstore/explain.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

namespace baton {
namespace {

using Reason = BlockVerdict::Reason;

/// What stands in a missing block's place: the child of the same parent that agrees longest, or, of a first block, a chain of
/// another root.
class Neighbours {
 public:
  explicit Neighbours(BlockStore& store) : store_(store), rows_(store.List()) {
    for (const BlockListing& row : rows_) children_[row.parent].push_back(&row);
  }

  /// kNeverStored where nothing is found.
  void Look(const BlockKey& parent, std::span<const TokenId> tokens, size_t begin, BlockVerdict& verdict) {
    size_t best = 0;
    for (const BlockListing* row : Children(parent)) {
      const auto header = store_.Peek(row->key);
      if (!header.ok() || header->token_ids.empty()) continue;
      const auto& ids = header->token_ids;
      const auto [asked, stored] = std::mismatch(tokens.begin(), tokens.end(), ids.begin(), ids.end());
      const auto common = static_cast<size_t>(asked - tokens.begin());
      if (verdict.reason == Reason::kDiffers && common <= best) continue;
      if (asked == tokens.end()) continue;
      best = common;
      verdict.reason = Reason::kDiffers;
      verdict.position = begin + common;
      verdict.asked = *asked;
      verdict.stored = stored == ids.end() ? -1 : *stored;
    }
  }

  /// Whether another root's chain begins with these tokens.
  bool UnderAnotherRoot(const BlockKey& root, std::span<const TokenId> tokens) {
    return std::any_of(rows_.begin(), rows_.end(), [&](const BlockListing& row) {
      if (row.depth != 0 || row.parent == root) return false;
      const auto header = store_.Peek(row.key);
      return header.ok() && std::equal(tokens.begin(), tokens.end(), header->token_ids.begin(), header->token_ids.end());
    });
  }

 private:
  const std::vector<const BlockListing*>& Children(const BlockKey& parent) {
    static const std::vector<const BlockListing*> kNone;
    const auto found = children_.find(parent);
    return found == children_.end() ? kNone : found->second;
  }

  BlockStore& store_;
  const std::vector<BlockListing> rows_;
  std::unordered_map<BlockKey, std::vector<const BlockListing*>> children_;
};

}  // namespace

const char* BlockVerdict::name() const {
  switch (reason) {
    case Reason::kHit: return "hit";
    case Reason::kDiffers: return "token_differs";
    case Reason::kSalt: return "salt";
    case Reason::kParent: return "parent_missing";
    case Reason::kEvicted: return "evicted";
    case Reason::kNeverStored: return "never_stored";
  }
  CHECK(false);
}

std::vector<BlockVerdict> ExplainBlocks(BlockStore& store, const BlockKey& root, std::span<const TokenId> tokens, size_t block_tokens) {
  const std::vector<BlockKey> keys = KeyChain(root, tokens, block_tokens);
  std::optional<Neighbours> neighbours;  // made at the first miss
  std::vector<BlockVerdict> verdicts;
  bool broken = false;
  for (size_t i = 0; i < keys.size(); ++i) {
    BlockVerdict verdict{keys[i], static_cast<uint32_t>(i)};
    const HeldBlocks held = store.Describe({&keys[i], 1});
    verdict.memory = held.memory > 0;
    verdict.disk = held.disk > 0;
    const auto part = tokens.subspan(i * block_tokens, block_tokens);
    if (held.held > 0) {
      verdict.reason = broken ? Reason::kParent : Reason::kHit;
    } else if (const auto evicted = store.EvictedAt(keys[i])) {
      verdict.reason = Reason::kEvicted;
      verdict.evicted_unix_s = *evicted;
    } else if (!broken) {
      if (!neighbours) neighbours.emplace(store);
      if (i == 0 && neighbours->UnderAnotherRoot(root, part)) verdict.reason = Reason::kSalt;
      else neighbours->Look(i == 0 ? root : keys[i - 1], part, i * block_tokens, verdict);
    }
    broken = broken || held.held == 0;
    verdicts.push_back(verdict);
  }
  return verdicts;
}

std::string VerdictJson(const BlockVerdict& v) {
  nlohmann::ordered_json out = {{"block", v.depth}, {"key", v.key.ToHex()}, {"hit", v.reason == Reason::kHit}, {"reason", v.name()}};
  if (v.memory || v.disk) out["tiers"] = v.memory && v.disk ? nlohmann::ordered_json{"memory", "disk"} : nlohmann::ordered_json::array({v.memory ? "memory" : "disk"});
  if (v.reason == Reason::kDiffers) {
    out["position"] = v.position;
    out["asked"] = v.asked;
    if (v.stored >= 0) out["stored"] = v.stored;
  }
  if (v.reason == Reason::kEvicted) out["evicted_at"] = v.evicted_unix_s;
  return out.dump();
}

}  // namespace baton
