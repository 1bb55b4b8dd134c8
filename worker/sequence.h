// One request inside the engine: its tokens, its blocks and how far they are computed. It holds one reference on each of its
// blocks. Thread: the engine's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/block_key.h"
#include "base/clock.h"
#include "base/ids.h"
#include "kvstore/block_pool.h"
#include "worker/constraint.h"
#include "worker/engine.h"
#include "worker/penalties.h"
#include "worker/speculation.h"

namespace baton {

class Sequence {
 public:
  /// Takes over the references on request.blocks. The key chain of the prompt is computed here, on the submitter's thread.
  Sequence(EngineRequest request, Constraint bounds, uint32_t block_tokens, Instant submitted);
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  const EngineRequest& origin() const { return origin_; }
  const GenerateRequest& request() const { return origin_.request; }
  RequestId id() const { return origin_.request.id; }
  Instant submitted() const { return submitted_; }
  Instant deadline() const { return deadline_; }

  const std::vector<TokenId>& tokens() const { return tokens_; }  // prompt and output
  uint32_t size() const { return static_cast<uint32_t>(tokens_.size()); }
  uint32_t prompt_tokens() const { return prompt_tokens_; }
  uint32_t produced() const { return size() - prompt_tokens_; }
  SamplingHistory history() const { return {tokens_, size_t{origin_.request.generated} + produced()}; }
  void Append(TokenId token) { tokens_.push_back(token); }
  Constraint& constraint() { return constraint_; }

  const std::vector<BlockId>& blocks() const { return blocks_; }
  std::span<std::byte* const> data() const { return data_; }
  uint32_t computed() const { return computed_; }  // positions whose KV is in the blocks; < size()
  /// Positions whose blocks must all be there before it runs; 0: it grows as it goes. A pushed request's blocks never change.
  uint32_t reserve_tokens() const;
  /// Keys of the full blocks of tokens(); empty without use_pool.
  const std::vector<BlockKey>& keys();
  /// The first full block that is neither computed nor in the pool, or keys().size().
  size_t FirstMissing(const BlockPool& pool);

  /// Finds the longest prefix in `pool`, publishes what came ready, and makes sure that at least the last token is left to
  /// compute, in a private block.
  void TakePrefix(BlockPool& pool);
  /// Blocks for positions [0, end). False, with nothing changed, when the pool has too few.
  bool Reserve(BlockPool& pool, uint32_t end);
  /// `count` more positions were computed.
  void Advance(uint32_t count) { computed_ += count; }
  /// The next full block that was computed here and not sealed yet: publishes it and fills `out`, whose reference is the
  /// caller's. False when there is none. Only with use_pool.
  bool SealNext(BlockPool& pool, SealedBlock& out);
  /// Guesses at the tokens after tokens(): at most `most`, and never past max_tokens.
  const std::vector<TokenId>& Guess(uint32_t most);
  const std::vector<TokenId>& draft() const { return draft_; }  // what Guess found last
  /// Gives back what was reserved for guesses that did not come true.
  void Trim(BlockPool& pool);
  /// Gives all blocks back; everything is to be computed again.
  void Release(BlockPool& pool);
  /// The same for a request that will go on. Its published blocks stay in the pool until others need the room.
  void Preempt(BlockPool& pool);
  /// Keys of the full blocks it had when it was preempted, where the pool has lost some of them; else empty. Tells once.
  std::span<const BlockKey> TakeLost(const BlockPool& pool);
  /// References that keep blocks of its chain in the pool until TakePrefix finds them there.
  void Keep(std::vector<BlockId> blocks) { kept_ = std::move(blocks); }
  size_t held_blocks() const { return blocks_.size() + kept_.size(); }
  /// The same, but the references go to the caller.
  std::vector<BlockId> TakeBlocks();

  bool running = false, started = false, reported = false, ended = false;
  bool resuming = false;  // its lost blocks are being brought back
  Instant started_at{}, first_token_at{};
  RequestStats stats;
  DraftRecord guesses;

 private:
  void Replace(BlockPool& pool, size_t index, BlockId block);
  void PublishReady(BlockPool& pool, size_t found);
  void DropKept(BlockPool& pool);
  BlockKey ParentOf(size_t depth) const { return depth == 0 ? origin_.root : keys_[depth - 1]; }

  const EngineRequest origin_;
  Constraint constraint_;
  const uint32_t block_tokens_, prompt_tokens_;
  const Instant submitted_, deadline_;
  std::vector<TokenId> tokens_;
  std::vector<TokenId> draft_;
  std::vector<BlockKey> keys_;
  std::vector<BlockId> blocks_;
  std::vector<std::byte*> data_;  // of blocks_, as Forward wants them
  uint32_t computed_ = 0;
  std::vector<BlockId> kept_;
  uint32_t had_blocks_ = 0;  // full ones when it was preempted
  uint32_t sealed_ = 0;  // leading blocks that are sealed, or were ready and so are nobody's to seal
};

}  // namespace baton
