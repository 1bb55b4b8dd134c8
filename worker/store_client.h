// A worker's way to the store: brings stored prefixes into the pool before they are needed, and takes computed blocks away
// behind the answer. The store is never needed: whatever goes wrong here is a miss or a dropped write, counted.
#pragma once

#include <kj/async.h>

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/block_key.h"
#include "kvstore/block_refs.h"
#include "worker/engine.h"
#include "worker/worker_context.h"

namespace baton {

/// The store that owns the chain which begins with `first`, or null where there is none. Rendezvous hashing: a conversation
/// lives in one store, and a lost store loses only its part.
const MemberInfo* StoreOf(const MembershipView& members, const BlockKey& first);

/// Whether `blocks` blocks are sooner read from the store than computed. Speeds of 0 are not measured yet: reading is tried.
bool FetchPays(size_t blocks, size_t block_bytes, double store_bytes_per_s, uint32_t block_tokens, double prefill_tokens_per_s);

/// Thread: the loop's.
class StoreClient {
 public:
  explicit StoreClient(WorkerContext& context);

  /// Blocks chain[have…] as far as the store holds them, verified and published in the pool, in order; empty on a miss.
  /// Never fails and never takes longer than the transfer timeout.
  kj::Promise<BlockRefs> Fetch(std::vector<BlockKey> chain, size_t have);
  /// The same for blocks that were computed here before; nothing where computing them again at `prefill_tokens_per_s` is sooner.
  kj::Promise<BlockRefs> FetchIfSooner(std::vector<BlockKey> chain, size_t have, double prefill_tokens_per_s);
  /// Queues a block for the store that owns its chain (`first`: the chain's first key). Takes over its reference. A full
  /// queue drops the block: it is recomputed when it is wanted again.
  void PutBehind(SealedBlock block, const BlockKey& first);
  /// Chains that begin with `root` are `tenant`'s: the store is told with their first blocks.
  void Know(const BlockKey& root, std::string_view tenant);
  /// Resolves when the queue is empty.
  kj::Promise<void> Drained();
  double bytes_per_s() const { return bytes_per_s_; }

 private:
  struct Waiting {
    SealedBlock block;
    BlockRefs ref;
    BlockKey first;
  };
  struct Batch;
  struct Lookup;
  kj::Promise<Result<BlockRefs>> Receive(std::shared_ptr<Lookup> lookup);
  kj::Promise<Status> PushWanted(kj::Own<Batch> batch, kj::Own<Peer> peer, capnp::Response<wire::Store::PutResults> answer);
  kj::Promise<Result<BlockRefs>> FetchSome(std::vector<BlockKey> keys, std::vector<BlockKey> parents, const MemberInfo& store);
  kj::Promise<BlockRefs> FetchRest(std::vector<BlockKey> chain, size_t from, BlockRefs got);
  kj::Promise<void> PutLoop();
  kj::Promise<Status> PutBatch(kj::Own<Batch> batch);

  WorkerContext& context_;
  std::deque<Waiting> queue_;
  std::unordered_map<BlockKey, std::string> tenants_;  // by root
  bool putting_ = false;
  double bytes_per_s_ = 0;
  prometheus::Counter &fetched_, &missed_, &written_, &dropped_, &corrupt_;
  std::vector<kj::Own<kj::PromiseFulfiller<void>>> drained_;
  Background tasks_{"store client"};
};

}  // namespace baton
