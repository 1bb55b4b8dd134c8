#include "worker/sequence.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "worker/prompt_lookup.h"

namespace baton {
namespace {

Instant DeadlineOf(const GenerateRequest& request, Instant submitted) {
  constexpr double kForeverS = 1e9;  // beyond what an Instant can add
  if (request.deadline_s <= 0 || request.deadline_s > kForeverS) return Instant::max();
  return submitted + FromSeconds(request.deadline_s);
}

}  // namespace

Sequence::Sequence(EngineRequest request, Constraint bounds, uint32_t block_tokens, Instant submitted)
    : origin_(std::move(request)), constraint_(std::move(bounds)),
      block_tokens_(block_tokens),
      prompt_tokens_(static_cast<uint32_t>(origin_.request.prompt.size())),
      submitted_(submitted),
      deadline_(DeadlineOf(origin_.request, submitted)),
      blocks_(origin_.blocks),
      computed_(origin_.ready_tokens) {
  tokens_.reserve(size_t{prompt_tokens_} + std::min<uint32_t>(origin_.request.max_tokens, 1024));
  tokens_ = origin_.request.prompt;
  if (origin_.first_token.has_value()) tokens_.push_back(origin_.first_token->token);
  keys();
}

uint32_t Sequence::reserve_tokens() const {
  if (!origin_.push_layers) return 0;
  return origin_.prefill_only ? prompt_tokens_ : prompt_tokens_ + origin_.request.max_tokens - 1;
}

const std::vector<BlockKey>& Sequence::keys() {
  if (!origin_.use_pool) return keys_;
  const std::span<const TokenId> tokens = tokens_;
  while ((keys_.size() + 1) * block_tokens_ <= tokens.size()) {
    keys_.push_back(NextKey(ParentOf(keys_.size()), tokens.subspan(keys_.size() * block_tokens_, block_tokens_)));
  }
  return keys_;
}

size_t Sequence::FirstMissing(const BlockPool& pool) {
  return std::max<size_t>(computed_ / block_tokens_, pool.Peek(keys()));
}

void Sequence::Replace(BlockPool& pool, size_t index, BlockId block) {
  if (index < blocks_.size()) {
    pool.Unref(blocks_[index]);
    blocks_[index] = block;
  } else {
    blocks_.push_back(block);
  }
}

void Sequence::TakePrefix(BlockPool& pool) {
  const std::vector<BlockId> found = pool.Lookup(keys());
  for (size_t i = 0; i < found.size(); ++i) Replace(pool, i, found[i]);
  PublishReady(pool, found.size());
  computed_ = std::max(computed_, static_cast<uint32_t>(found.size() * block_tokens_));
  sealed_ = computed_ / block_tokens_;
  if (computed_ == size()) {
    // All of it is there, but the last token's logits are not: it is computed again, and a full block is never written, so
    // into a copy. Without a block for that, the last block's tokens are computed again.
    const size_t last = (computed_ - 1) / block_tokens_;
    if (computed_ % block_tokens_ != 0) {
      computed_ -= 1;  // the block is private: it was not wholly ready
    } else if (auto copy = pool.Allocate(1); copy.ok()) {
      std::memcpy(pool.data((*copy)[0]), pool.data(blocks_[last]), pool.block_bytes());
      Replace(pool, last, (*copy)[0]);
      computed_ -= 1;
    } else {
      for (size_t i = last; i < blocks_.size(); ++i) pool.Unref(blocks_[i]);
      blocks_.resize(last);
      computed_ = static_cast<uint32_t>(last * block_tokens_);
      sealed_ = static_cast<uint32_t>(last);
    }
  }
  data_.clear();
  for (const BlockId block : blocks_) data_.push_back(pool.data(block));
  DropKept(pool);
}

void Sequence::PublishReady(BlockPool& pool, size_t found) {
  if (!origin_.use_pool) return;
  for (size_t i = found; i < computed_ / block_tokens_; ++i) {
    if (pool.DigestOf(blocks_[i]).has_value()) continue;
    pool.Publish(blocks_[i], keys_[i], ParentOf(i), Xxh3({pool.data(blocks_[i]), pool.block_bytes()}));
  }
}

bool Sequence::Reserve(BlockPool& pool, uint32_t end) {
  const size_t needed = CeilDiv(std::max(end, reserve_tokens()), block_tokens_);
  if (needed <= blocks_.size()) return true;
  auto more = pool.Allocate(needed - blocks_.size());
  if (!more.ok()) return false;
  for (const BlockId block : *more) {
    blocks_.push_back(block);
    data_.push_back(pool.data(block));
  }
  return true;
}

bool Sequence::SealNext(BlockPool& pool, SealedBlock& out) {
  if (!origin_.use_pool || sealed_ >= computed_ / block_tokens_) return false;
  const size_t depth = sealed_++;
  out.block = blocks_[depth];
  out.key = keys()[depth];
  out.parent = ParentOf(depth);
  out.depth = static_cast<uint32_t>(depth);
  out.digest = Xxh3({pool.data(out.block), pool.block_bytes()});
  const auto first = tokens_.begin() + static_cast<ptrdiff_t>(depth * block_tokens_);
  out.tokens.assign(first, first + block_tokens_);
  if (pool.Publish(out.block, out.key, out.parent, out.digest) == out.block) stats.cache_write_tokens += block_tokens_;
  pool.Ref(out.block);
  return true;
}

const std::vector<TokenId>& Sequence::Guess(uint32_t most) {
  const GenerateRequest& request = origin_.request;
  // A step adds a token behind the guesses.
  const uint32_t left = origin_.prefill_only ? 0 : request.max_tokens - std::min(request.max_tokens, produced() + 1);
  LookUpDraft(tokens_, request.prediction, std::min(most, left), draft_);
  return draft_;
}

void Sequence::Trim(BlockPool& pool) {
  const size_t needed = CeilDiv(std::max(size(), reserve_tokens()), block_tokens_);
  while (blocks_.size() > needed) {
    pool.Unref(blocks_.back());
    blocks_.pop_back();
    data_.pop_back();
  }
}

void Sequence::Preempt(BlockPool& pool) {
  had_blocks_ = origin_.use_pool ? computed_ / block_tokens_ : 0;
  Release(pool);
}

std::span<const BlockKey> Sequence::TakeLost(const BlockPool& pool) {
  const size_t had = std::exchange(had_blocks_, 0);
  if (had == 0 || pool.Peek(keys()) >= had) return {};
  return std::span(keys()).first(had);
}

void Sequence::DropKept(BlockPool& pool) {
  for (size_t i = kept_.size(); i > 0; --i) pool.Unref(kept_[i - 1]);
  kept_.clear();
}

void Sequence::Release(BlockPool& pool) {
  DropKept(pool);
  // The deepest first: the pool evicts what was released earliest, and a chain goes from its tail.
  for (size_t i = blocks_.size(); i > 0; --i) pool.Unref(blocks_[i - 1]);
  (void)TakeBlocks();
}

std::vector<BlockId> Sequence::TakeBlocks() {
  data_.clear();
  computed_ = sealed_ = 0;
  running = false;
  return std::exchange(blocks_, {});
}

}  // namespace baton
