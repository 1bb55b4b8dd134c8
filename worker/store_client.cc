#include "worker/store_client.h"

#include <algorithm>

#include "base/log.h"
#include "kvstore/incoming_transfer.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

constexpr size_t kFetchAtOnce = 32;  // blocks: bounds what a store keeps leased for one caller
constexpr size_t kPutAtOnce = 16;
constexpr size_t kMaxQueue = 512;
constexpr size_t kMaxTenants = 65536;
constexpr double kRoundTripS = 2e-3;  // of a look-up, whatever it brings

}  // namespace

struct StoreClient::Batch {
  std::vector<SealedBlock> blocks;
  BlockRefs refs;
  MemberInfo store;
};

StoreClient::StoreClient(WorkerContext& context)
    : context_(context),
      fetched_(context.metrics.Counter("baton_worker_store_blocks_fetched_total", "Blocks brought from the store into the pool")),
      missed_(context.metrics.Counter("baton_worker_store_misses_total", "Look-ups of which the store held nothing")),
      written_(context.metrics.Counter("baton_worker_store_blocks_written_total", "Blocks the store took")),
      dropped_(context.metrics.Counter("baton_worker_store_blocks_dropped_total", "Blocks not written: no store, a full queue or a failed put")),
      corrupt_(context.metrics.Counter("baton_worker_store_blocks_corrupt_total", "Fetched blocks whose digest was wrong: treated as misses")) {}

const MemberInfo* StoreOf(const MembershipView& members, const BlockKey& first) {
  const MemberInfo* best = nullptr;
  uint64_t best_score = 0;
  for (const MemberInfo* member : members.WithRole("store")) {
    if (member->draining || member->transport_address.empty()) continue;
    const uint64_t score = Xxh3_64(AsBytes(member->name), first.Prefix64());
    if (best == nullptr || score > best_score) {
      best = member;
      best_score = score;
    }
  }
  return best;
}

kj::Promise<BlockRefs> StoreClient::Fetch(std::vector<BlockKey> chain, size_t have) {
  if (have >= chain.size() || StoreOf(context_.members, chain[0]) == nullptr) return BlockRefs();
  return context_.timer
      .timeoutAfter(context_.timeout.count() * kj::NANOSECONDS, FetchRest(std::move(chain), have, BlockRefs()))
      .catch_([](kj::Exception&& e) {
        LOG_WARN("reading from the store: {}", e.getDescription().cStr());
        return BlockRefs();
      });
}

bool FetchPays(size_t blocks, size_t block_bytes, double store_bytes_per_s, uint32_t block_tokens, double prefill_tokens_per_s) {
  if (store_bytes_per_s <= 0 || prefill_tokens_per_s <= 0) return true;
  const double read_s = kRoundTripS + static_cast<double>(blocks * block_bytes) / store_bytes_per_s;
  return read_s < static_cast<double>(blocks * block_tokens) / prefill_tokens_per_s;
}

kj::Promise<BlockRefs> StoreClient::FetchIfSooner(std::vector<BlockKey> chain, size_t have, double prefill_tokens_per_s) {
  const size_t blocks = chain.size() - std::min(have, chain.size());
  if (!FetchPays(blocks, context_.pool.block_bytes(), bytes_per_s_, context_.layout.block_tokens, prefill_tokens_per_s)) return BlockRefs();
  return Fetch(std::move(chain), have);
}

kj::Promise<BlockRefs> StoreClient::FetchRest(std::vector<BlockKey> chain, size_t from, BlockRefs got) {
  const MemberInfo* store = StoreOf(context_.members, chain[0]);
  if (from >= chain.size() || store == nullptr) return kj::mv(got);
  const size_t count = std::min(kFetchAtOnce, chain.size() - from);
  std::vector<BlockKey> keys(chain.begin() + from, chain.begin() + from + count), parents;
  for (size_t i = from; i < from + count; ++i) parents.push_back(i == 0 ? BlockKey() : chain[i - 1]);
  return FetchSome(std::move(keys), std::move(parents), *store)
      .then([this, chain = std::move(chain), from, got = kj::mv(got), count](Result<BlockRefs> more) mutable -> kj::Promise<BlockRefs> {
        if (!more.ok()) {
          LOG_DEBUG("reading from the store: {}", more.status().ToString());
          return kj::mv(got);
        }
        const size_t n = more->size();
        got.Append(std::move(*more));
        if (n < count) return kj::mv(got);
        return FetchRest(std::move(chain), from + n, kj::mv(got));
      });
}

/// One look-up under way: what was asked for, and what keeps the store's lease and the connection alive.
struct StoreClient::Lookup {
  std::vector<BlockKey> keys, parents;
  MemberInfo store;
  std::vector<Digest128> digests;
  kj::Maybe<wire::StoreLease::Client> lease;
  kj::Maybe<kj::Own<Peer>> peer;
  Instant begin;

  /// Takes the digests of what the store holds; the answer must name the keys that were asked for, in order.
  Status Read(capnp::List<wire::BlockHeader>::Reader headers) {
    if (headers.size() > keys.size()) return DataLossError("the store answered with more blocks than were asked for");
    for (uint32_t i = 0; i < headers.size(); ++i) {
      auto key = ReadKey(headers[i].getKey());
      if (!key.ok() || *key != keys[i]) return DataLossError("the store answered with another block than was asked for");
      digests.push_back(ReadDigest(headers[i].getDigest()));
    }
    return OkStatus();
  }
};

kj::Promise<Result<BlockRefs>> StoreClient::FetchSome(std::vector<BlockKey> keys, std::vector<BlockKey> parents, const MemberInfo& store) {
  auto lookup = std::make_shared<Lookup>();
  lookup->keys = std::move(keys);
  lookup->parents = std::move(parents);
  lookup->store = store;
  lookup->begin = context_.clock.Now();
  return CatchAsStatus(context_.peers.Dial(store.address).then([this, lookup](Result<kj::Own<Peer>> peer) -> kj::Promise<Result<BlockRefs>> {
    if (!peer.ok()) return Result<BlockRefs>(peer.status());
    auto request = (*peer)->store.openRequest();
    WriteKeys(lookup->keys, request.initKeys(static_cast<uint32_t>(lookup->keys.size())));
    auto opened = (*peer)->Guard(kj::Promise<capnp::Response<wire::Store::OpenResults>>(request.send()));
    lookup->peer = kj::mv(*peer);
    return opened.then([this, lookup](capnp::Response<wire::Store::OpenResults> answer) -> kj::Promise<Result<BlockRefs>> {
      Status status = ReadStatus(answer.getStatus());
      if (status.ok()) status = lookup->Read(answer.getHeaders());
      if (!status.ok()) return Result<BlockRefs>(status);
      if (lookup->digests.empty()) {
        missed_.Increment();
        return Result<BlockRefs>(BlockRefs());
      }
      lookup->lease = answer.getLease();
      return Receive(lookup);
    });
  }));
}

/// Has the leased blocks pushed into fresh pool blocks, verifies and publishes them.
kj::Promise<Result<BlockRefs>> StoreClient::Receive(std::shared_ptr<Lookup> lookup) {
  auto incoming = ExpectBlocks(context_, {lookup->store.id, lookup->store.transport_address}, lookup->digests.size(), 1, BlockDigests::kMade);
  if (!incoming.ok()) return Result<BlockRefs>(incoming.status());
  auto push = KJ_ASSERT_NONNULL(lookup->lease).pushRequest();
  context_.WriteTarget(incoming->id, push.initTarget());
  auto pushed = push.send().then([](capnp::Response<wire::StoreLease::PushResults> r) -> LandedBlocks {
    const Status failed = ReadStatus(r.getStatus());
    if (!failed.ok()) return Result<Landed>(failed);
    return kj::NEVER_DONE;  // the landing decides
  });
  return kj::mv(incoming->landed).exclusiveJoin(kj::mv(pushed)).then([this, lookup](Result<Landed> landed) -> Result<BlockRefs> {
    if (!landed.ok()) return landed.status();
    const Status verified = landed->Verify(lookup->digests);
    if (!verified.ok()) {
      corrupt_.Increment();
      return verified;
    }
    BlockRefs& blocks = landed->blocks;
    for (size_t i = 0; i < blocks.size(); ++i) context_.pool.Publish(blocks.ids()[i], lookup->keys[i], lookup->parents[i], lookup->digests[i]);
    fetched_.Increment(static_cast<double>(blocks.size()));
    const double seconds = ToSeconds(context_.clock.Now() - lookup->begin);
    const double rate = static_cast<double>(blocks.size() * context_.pool.block_bytes()) / std::max(seconds, 1e-6);
    bytes_per_s_ = bytes_per_s_ == 0 ? rate : 0.8 * bytes_per_s_ + 0.2 * rate;
    return Result<BlockRefs>(std::move(blocks));
  });
}

void StoreClient::Know(const BlockKey& root, std::string_view tenant) {
  if (tenant.empty()) return;
  if (tenants_.size() >= kMaxTenants) tenants_.clear();  // each request of a tenant's tells it again
  tenants_.insert_or_assign(root, std::string(tenant));
}

void StoreClient::PutBehind(SealedBlock block, const BlockKey& first) {
  BlockRefs ref(context_.pool, {block.block});
  if (queue_.size() >= kMaxQueue || StoreOf(context_.members, first) == nullptr) {
    dropped_.Increment();
    return;
  }
  queue_.push_back({std::move(block), std::move(ref), first});
  if (putting_) return;
  putting_ = true;
  tasks_.Add(kj::evalLater([this]() { return PutLoop(); }));
}

kj::Promise<void> StoreClient::Drained() {
  if (!putting_) return kj::READY_NOW;
  auto pair = kj::newPromiseAndFulfiller<void>();
  drained_.push_back(kj::mv(pair.fulfiller));
  return kj::mv(pair.promise);
}

kj::Promise<void> StoreClient::PutLoop() {
  auto batch = kj::heap<Batch>();
  while (!queue_.empty() && batch->blocks.size() < kPutAtOnce) {
    const MemberInfo* store = StoreOf(context_.members, queue_.front().first);
    if (store == nullptr) {
      dropped_.Increment();
      queue_.pop_front();
      continue;
    }
    if (!batch->blocks.empty() && store->id != batch->store.id) break;  // its turn comes in the next batch
    batch->store = *store;
    batch->blocks.push_back(std::move(queue_.front().block));
    batch->refs.Append(std::move(queue_.front().ref));
    queue_.pop_front();
  }
  if (batch->blocks.empty()) {
    putting_ = false;
    for (auto& waiter : std::exchange(drained_, {})) waiter->fulfill();
    return kj::READY_NOW;
  }
  const size_t n = batch->blocks.size();
  auto put = context_.timer.timeoutAfter(context_.timeout.count() * kj::NANOSECONDS, PutBatch(kj::mv(batch)));
  return CatchAsStatus(kj::mv(put)).then([this, n](Status status) {
    if (!status.ok()) {
      dropped_.Increment(static_cast<double>(n));
      LOG_DEBUG("writing to the store: {}", status.ToString());
    }
    return PutLoop();
  });
}

kj::Promise<Status> StoreClient::PutBatch(kj::Own<Batch> batch) {
  return context_.peers.Dial(batch->store.address).then([this, batch = kj::mv(batch)](Result<kj::Own<Peer>> peer) mutable -> kj::Promise<Status> {
    if (!peer.ok()) return peer.status();
    auto request = (*peer)->store.putRequest();
    auto headers = request.initHeaders(static_cast<uint32_t>(batch->blocks.size()));
    for (uint32_t i = 0; i < batch->blocks.size(); ++i) {
      const SealedBlock& block = batch->blocks[i];
      headers[i].setKey(ToData(block.key));
      headers[i].setParent(ToData(block.parent));
      WriteDigest(block.digest, headers[i].initDigest());
      headers[i].setTokens(static_cast<uint32_t>(block.tokens.size()));
      headers[i].setDepth(block.depth);
      if (const auto tenant = tenants_.find(block.parent); tenant != tenants_.end()) headers[i].setTenant(tenant->second);
      WriteTokens(block.tokens, headers[i].initTokenIds(static_cast<uint32_t>(block.tokens.size())));
    }
    request.setBlockBytes(context_.pool.block_bytes());
    request.setFrom(context_.self.value);
    request.setTransportAddress(context_.pump.address());
    auto sent = (*peer)->Guard(kj::Promise<capnp::Response<wire::Store::PutResults>>(request.send()));
    return sent.then([this, batch = kj::mv(batch), peer = kj::mv(*peer)](capnp::Response<wire::Store::PutResults> answer) mutable {
      return PushWanted(kj::mv(batch), kj::mv(peer), kj::mv(answer));
    });
  });
}

kj::Promise<Status> StoreClient::PushWanted(kj::Own<Batch> batch, kj::Own<Peer> peer, capnp::Response<wire::Store::PutResults> answer) {
  const Status status = ReadStatus(answer.getStatus());
  const auto wanted = answer.getWanted();
  if (!status.ok() || wanted.size() == 0) return status;
  const TransferId id(answer.getTarget().getTransfer());
  std::vector<Segment> segments;
  for (uint32_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i] >= batch->blocks.size()) return Status(DataLossError("the store asked for a block that was not offered"));
    segments.push_back({i, context_.pool.data(batch->blocks[wanted[i]].block), context_.pool.block_bytes()});
  }
  context_.pump.Push(id, {batch->store.id, ToString(answer.getTarget().getTransportAddress())}, std::move(segments));
  // The blocks stay referenced until the transport has let go of their bytes, whatever happens to the call.
  auto held = std::make_shared<kj::Own<Batch>>(kj::mv(batch));
  context_.pump.CloseSend(id, [&loop = context_.loop, held](const Status&) mutable { loop.Post([held = std::move(held)] {}); });
  auto session = answer.getSession();
  auto finished = peer->Guard(kj::Promise<capnp::Response<wire::PutSession::FinishResults>>(session.finishRequest().send()));
  auto cancel = kj::defer([&pump = context_.pump, id] { pump.Cancel(id); });  // a put that is given up lets go of its blocks; one that ended is over
  return finished.attach(kj::mv(cancel), kj::mv(session), kj::mv(peer)).then([this](capnp::Response<wire::PutSession::FinishResults> r) {
    written_.Increment(r.getStored());
    return ReadStatus(r.getStatus());
  });
}

}  // namespace baton
