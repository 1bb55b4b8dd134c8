#include "app/cache_holder.h"

#include <algorithm>
#include <utility>

#include "app/prefix_computation.h"
#include "base/log.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"
#include "worker/store_client.h"

namespace baton {
namespace {

constexpr kj::Duration kPoll = 10 * kj::MILLISECONDS;
constexpr kj::Duration kCallTimeout = 5 * kj::SECONDS;  // a store syncs the record before it answers
constexpr double kFreshSettleS = 1, kComputedSettleS = 5;  // without another block that arrives, what is missing was dropped

Status NoStore() { return UnavailableError("no store is in this cluster now, and cache handles are held in stores: add one to cluster.roles, or try again later"); }

}  // namespace

/// One Hold under way.
struct CacheHolder::Holding {
  CacheRecord record;
  std::vector<BlockKey> keys;
  BlockKey first;  // decides which store
  HoldMode mode;
  bool computed = false;
  uint32_t most = 0;  // that were held so far
  Instant progress;   // when another block had arrived
};

/// A chain is in the store that its first key names; a handle of less than a block is, too.
BlockKey CacheHolder::First(const std::vector<BlockKey>& keys, const BlockKey& root, const std::vector<TokenId>& tokens) const {
  return keys.empty() ? NextKey(root, tokens) : keys.front();
}

kj::Promise<Result<HeldBlocks>> CacheHolder::Hold(CacheRecord record, const BlockKey& root, HoldMode mode) {
  auto holding = std::make_shared<Holding>();
  holding->keys = KeyChain(root, record.tokens, std::max(1u, backend_.card().block_tokens));
  holding->first = First(holding->keys, root, record.tokens);
  holding->record = std::move(record);
  holding->mode = mode;
  holding->progress = clock_.Now();
  return Step(std::move(holding));
}

kj::Promise<Result<HeldBlocks>> CacheHolder::Step(std::shared_ptr<Holding> holding) {
  return Ask(*holding).then([this, holding](Result<HeldBlocks> held) -> kj::Promise<Result<HeldBlocks>> {
    if (!held.ok() || held->held == holding->keys.size() || holding->mode == HoldMode::kAsIs) return kj::mv(held);
    if (held->held > holding->most) {
      holding->most = held->held;
      holding->progress = clock_.Now();
    }
    const bool may_come = holding->computed || holding->mode == HoldMode::kFresh;
    if (may_come && ToSeconds(clock_.Now() - holding->progress) < (holding->computed ? kComputedSettleS : kFreshSettleS)) {
      return timer_.afterDelay(kPoll).then([this, holding]() { return Step(holding); });
    }
    if (holding->computed) {
      return Result<HeldBlocks>(UnavailableError("the store took {} of the cache's {} blocks; it is too small for them, or fails: see its log and its metrics",
                                                 held->held, holding->keys.size()));
    }
    holding->computed = true;
    return Compute(holding->record).then([this, holding](Status status) -> kj::Promise<Result<HeldBlocks>> {
      if (!status.ok()) return Result<HeldBlocks>(status);
      holding->progress = clock_.Now();
      return Step(holding);
    });
  });
}

kj::Promise<Result<HeldBlocks>> CacheHolder::Ask(const Holding& holding) {
  const MemberInfo* store = StoreOf(members_, holding.first);
  if (store == nullptr) return Result<HeldBlocks>(NoStore());
  auto answer = peers_.Dial(store->address).then([&holding, name = store->name](Result<kj::Own<Peer>> peer) -> kj::Promise<Result<HeldBlocks>> {
    if (!peer.ok()) return Result<HeldBlocks>(UnavailableError("store {} does not answer: {}", name, peer.status().message()));
    auto call = (*peer)->store.holdRequest();
    WriteCacheRecord(holding.record, call.initRecord());
    WriteKeys(holding.keys, call.initKeys(static_cast<uint32_t>(holding.keys.size())));
    call.setAll(holding.mode != HoldMode::kAsIs);
    auto sent = (*peer)->Guard(kj::Promise<capnp::Response<wire::Store::HoldResults>>(call.send()));
    return sent.then([](capnp::Response<wire::Store::HoldResults> r) -> Result<HeldBlocks> {
      RETURN_IF_ERROR(ReadStatus(r.getStatus()));
      return ReadHeldBlocks(r.getBlocks());
    });
  });
  return CatchAsStatus(timer_.timeoutAfter(kCallTimeout, kj::mv(answer)));
}

kj::Promise<Status> CacheHolder::Compute(const CacheRecord& record) {
  GenerateRequest request;
  request.id = RequestId(request_ids_.Next64() | 1);
  request.tenant = record.tenant;
  request.prompt = record.tokens;
  request.max_tokens = 1;
  request.sampling.temperature = 0;
  request.keep = true;
  auto computation = kj::heap<PrefixComputation>();
  auto ended = computation->Start(backend_, std::move(request));
  return ended.attach(kj::mv(computation)).then([](PrefixComputation::Outcome outcome) {
    if (outcome.status.code() != StatusCode::kExhausted) return outcome.status;
    return UnavailableError("the cache's blocks cannot be computed now: {}", outcome.status.message());
  });
}

kj::Promise<Status> CacheHolder::ReleaseAt(const MemberInfo& store, const std::string& id) {
  auto done = peers_.Dial(store.address).then([id](Result<kj::Own<Peer>> peer) -> kj::Promise<Status> {
    if (!peer.ok()) return peer.status();
    auto call = (*peer)->store.releaseRequest();
    call.setId(id);
    auto sent = (*peer)->Guard(kj::Promise<capnp::Response<wire::Store::ReleaseResults>>(call.send()));
    return sent.then([](capnp::Response<wire::Store::ReleaseResults> r) { return ReadStatus(r.getStatus()); });
  });
  return CatchAsStatus(timer_.timeoutAfter(kCallTimeout, kj::mv(done)));
}

kj::Promise<Status> CacheHolder::Release(std::string id) {
  kj::Vector<kj::Promise<Status>> all;  // also those that owned the chain when there were fewer or more stores
  for (const MemberInfo* store : members_.WithRole("store")) all.add(ReleaseAt(*store, id));
  if (all.empty()) return NoStore();
  return kj::joinPromises(all.releaseAsArray()).then([](kj::Array<Status> results) {
    for (const Status& status : results) {
      if (!status.ok()) return UnavailableError("{}", status.message());
    }
    return OkStatus();
  });
}

kj::Promise<std::vector<CacheRecord>> CacheHolder::StoredAt(PeerAddress store, std::string tenant, std::string id, std::string after) {
  return peers_.Dial(store).then([this, store, tenant, id, after](Result<kj::Own<Peer>> peer) -> kj::Promise<std::vector<CacheRecord>> {
    if (!peer.ok()) return std::vector<CacheRecord>();
    auto call = (*peer)->store.holdsRequest();
    call.setTenant(tenant);
    call.setId(id);
    call.setAfter(after);
    auto sent = (*peer)->Guard(kj::Promise<capnp::Response<wire::Store::HoldsResults>>(call.send()));
    return sent.then([this, store, tenant, id](capnp::Response<wire::Store::HoldsResults> r) -> kj::Promise<std::vector<CacheRecord>> {
      std::vector<CacheRecord> records;
      for (const auto record : r.getRecords()) records.push_back(ReadCacheRecord(record));
      if (!r.getMore() || records.empty()) return kj::mv(records);
      std::string last = records.back().id;
      return StoredAt(store, tenant, id, std::move(last)).then([records = std::move(records)](std::vector<CacheRecord> more) mutable {
        records.insert(records.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
        return kj::mv(records);
      });
    });
  });
}

kj::Promise<std::vector<CacheRecord>> CacheHolder::Stored(std::string tenant, std::string id) {
  kj::Vector<kj::Promise<std::vector<CacheRecord>>> all;
  for (const MemberInfo* store : members_.WithRole("store")) {
    all.add(timer_.timeoutAfter(kCallTimeout, StoredAt(store->address, tenant, id, "")).catch_([name = store->name](kj::Exception&& e) {
      LOG_DEBUG("store {} does not tell its cache handles: {}", name, e.getDescription().cStr());
      return std::vector<CacheRecord>();
    }));
  }
  return kj::joinPromises(all.releaseAsArray()).then([](kj::Array<std::vector<CacheRecord>> parts) {
    std::vector<CacheRecord> records;
    for (auto& part : parts) records.insert(records.end(), std::make_move_iterator(part.begin()), std::make_move_iterator(part.end()));
    return records;
  });
}

kj::Promise<Result<std::string>> CacheHolder::Explain(std::vector<TokenId> tokens, const BlockKey& root) {
  const std::vector<BlockKey> keys = KeyChain(root, tokens, std::max(1u, backend_.card().block_tokens));
  const MemberInfo* store = StoreOf(members_, First(keys, root, tokens));
  if (store == nullptr) return Result<std::string>(NoStore());
  auto answer = peers_.Dial(store->address).then([this, tokens = std::move(tokens), root](Result<kj::Own<Peer>> peer) -> kj::Promise<Result<std::string>> {
    if (!peer.ok()) return Result<std::string>(peer.status());
    auto call = (*peer)->store.explainRequest();
    call.setRoot(ToData(root));
    call.setBlockTokens(std::max(1u, backend_.card().block_tokens));
    WriteTokens(tokens, call.initTokens(static_cast<uint32_t>(tokens.size())));
    auto sent = (*peer)->Guard(kj::Promise<capnp::Response<wire::Store::ExplainResults>>(call.send()));
    return sent.then([](capnp::Response<wire::Store::ExplainResults> r) -> Result<std::string> {
      RETURN_IF_ERROR(ReadStatus(r.getStatus()));
      return ToString(r.getJson());
    });
  });
  return CatchAsStatus(timer_.timeoutAfter(kCallTimeout, kj::mv(answer)));
}

}  // namespace baton
