#include "kvstore/store_service.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "kvstore/incoming_transfer.h"
#include "kvstore/io_call.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

constexpr uint32_t kMaxKeys = 4096, kMaxPut = 64;  // of one call

void WriteHeader(const BlockHeader& header, wire::BlockHeader::Builder out) {
  out.setKey(ToData(header.key));
  out.setParent(ToData(header.parent));
  WriteDigest(header.digest, out.initDigest());
  out.setTokens(header.tokens);
  out.setDepth(header.depth);
}

Result<BlockHeader> ReadHeader(wire::BlockHeader::Reader in) {
  BlockHeader header;
  ASSIGN_OR_RETURN(header.key, ReadKey(in.getKey()));
  ASSIGN_OR_RETURN(header.parent, ReadKey(in.getParent()));
  header.digest = ReadDigest(in.getDigest());
  header.tokens = in.getTokens();
  header.depth = in.getDepth();
  if (in.getTokenIds().size() > BlockHeader::kMaxTokenIds) return InvalidError("a block of {} tokens is too long", in.getTokenIds().size());
  header.token_ids = ReadTokens(in.getTokenIds());
  header.tenant = ToString(in.getTenant());
  return Result<BlockHeader>(std::move(header));
}

using BlockViews = std::vector<BlockView>;

class LeaseImpl final : public wire::StoreLease::Server {
 public:
  LeaseImpl(TransferContext& context, std::shared_ptr<const BlockViews> blocks) : context_(context), blocks_(std::move(blocks)) {}

  kj::Promise<void> push(PushContext context) override {
    const auto target = context.getParams().getTarget();
    const TransferId id(target.getTransfer());
    std::vector<Segment> segments;
    for (uint32_t i = 0; i < blocks_->size(); ++i) segments.push_back({i, (*blocks_)[i].bytes.data(), (*blocks_)[i].bytes.size()});
    context_.pump.Push(id, {WorkerId(target.getWorker()), ToString(target.getTransportAddress())}, std::move(segments));
    // The bytes stay until the transport has let go of them, even if the lease is dropped.
    auto pair = kj::newPromiseAndFulfiller<Status>();
    auto fulfiller = std::make_shared<kj::Own<kj::PromiseFulfiller<Status>>>(kj::mv(pair.fulfiller));
    context_.pump.CloseSend(id, [&loop = context_.loop, blocks = blocks_, fulfiller](const Status& status) mutable {
      loop.Post([blocks = std::move(blocks), fulfiller = std::move(fulfiller), status] { (*fulfiller)->fulfill(Status(status)); });
    });
    return pair.promise.then([context](Status status) mutable { WriteStatus(status, context.getResults().initStatus()); });
  }

 private:
  TransferContext& context_;
  const std::shared_ptr<const BlockViews> blocks_;
};

class PutSessionImpl final : public wire::PutSession::Server {
 public:
  PutSessionImpl(TransferContext& context, BlockStore& store, TaskRunner& io, std::vector<BlockHeader> headers, LandedBlocks landed)
      : context_(context), store_(store), io_(io), headers_(std::move(headers)), landed_(kj::mv(landed)) {}

  kj::Promise<void> finish(FinishContext context) override {
    auto landed = std::exchange(landed_, LandedBlocks(Result<Landed>(AbortedError("this put was finished before"))));
    return landed.then([this, context](Result<Landed> blocks) mutable -> kj::Promise<void> {
      if (!blocks.ok()) {
        WriteStatus(blocks.status(), context.getResults().initStatus());
        return kj::READY_NOW;
      }
      struct Taken {
        Status status;
        uint32_t stored = 0;
      };
      auto refs = std::make_shared<BlockRefs>(std::move(blocks->blocks));
      auto put = OnIoThread(context_, io_, [&store = store_, &pool = context_.pool, headers = headers_, refs]() {
        Taken taken;
        for (size_t i = 0; i < headers.size(); ++i) {
          const Status status = store.Put(headers[i], {pool.data(refs->ids()[i]), pool.block_bytes()});
          if (status.ok()) ++taken.stored;
          else if (taken.status.ok()) taken.status = status;
        }
        return taken;
      });
      return put.then([context](Taken taken) mutable {
        WriteStatus(taken.status, context.getResults().initStatus());
        context.getResults().setStored(taken.stored);
      });
    });
  }

 private:
  TransferContext& context_;
  BlockStore& store_;
  TaskRunner& io_;
  const std::vector<BlockHeader> headers_;
  LandedBlocks landed_;
};

/// Counters of a store as one JSON object.
std::string StoreStatsJson(const BlockStore& store) {
  const BlockStoreStats s = store.stats();
  const nlohmann::ordered_json object = {
      {"blocks_memory", s.blocks_memory}, {"bytes_memory", s.bytes_memory}, {"blocks_disk", s.blocks_disk}, {"bytes_disk", s.bytes_disk},
      {"hits_memory", s.hits_memory},     {"hits_disk", s.hits_disk},       {"misses", s.misses},           {"puts", s.puts},
      {"duplicates", s.duplicates},       {"corrupt", s.corrupt}, {"quarantined", s.quarantined}, {"scrubbed", s.scrubbed},
      {"evictions", s.evictions},     {"expired", s.expired},
      {"dropped", s.dropped},             {"blocks_dirty", s.blocks_dirty}, {"pinned", s.pinned},           {"evicted_age_s", s.evicted_age_s},
      {"identity", store.identity()}};
  return object.dump();
}

}  // namespace

kj::Promise<void> StoreService::open(OpenContext context) {
  auto keys = ReadKeys(context.getParams().getKeys());
  if (!keys.ok() || keys->size() > kMaxKeys) {
    WriteStatus(keys.ok() ? InvalidError("{} keys are more than {} in one call", keys->size(), kMaxKeys) : keys.status(), context.getResults().initStatus());
    return kj::READY_NOW;
  }
  const size_t held = store_.Lookup(*keys);
  if (held == 0) return kj::READY_NOW;
  keys->resize(held);
  auto views = OnIoThread(context_, io_, [&store = store_, keys = std::move(*keys)]() {
    auto blocks = std::make_shared<BlockViews>();
    for (const BlockKey& key : keys) {
      auto view = store.View(key);
      if (!view.ok()) break;  // a miss, or it did not verify: the prefix ends here
      blocks->push_back(std::move(*view));
    }
    return blocks;
  });
  return views.then([this, context](std::shared_ptr<BlockViews> blocks) mutable {
    // A block of another size than the workers' is none of theirs.
    size_t n = 0;
    while (n < blocks->size() && (*blocks)[n].bytes.size() == context_.pool.block_bytes()) ++n;
    blocks->resize(n);
    auto results = context.getResults();
    auto headers = results.initHeaders(static_cast<uint32_t>(n));
    for (uint32_t i = 0; i < n; ++i) WriteHeader((*blocks)[i].header, headers[i]);
    if (n > 0) results.setLease(kj::heap<LeaseImpl>(context_, std::move(blocks)));
  });
}

kj::Promise<void> StoreService::put(PutContext context) {
  const auto params = context.getParams();
  auto results = context.getResults();
  const auto fail = [&](const Status& status) {
    WriteStatus(status, results.initStatus());
    return kj::READY_NOW;
  };
  if (params.getBlockBytes() != context_.pool.block_bytes()) {
    return fail(InvalidError("blocks of {} bytes do not fit this store, whose blocks have {}: one model, layout and dtype a cluster", params.getBlockBytes(),
                             context_.pool.block_bytes()));
  }
  if (params.getHeaders().size() > kMaxPut) return fail(InvalidError("{} blocks are more than {} in one put", params.getHeaders().size(), kMaxPut));
  std::vector<BlockHeader> headers;
  std::vector<uint32_t> wanted;
  for (uint32_t i = 0; i < params.getHeaders().size(); ++i) {
    auto header = ReadHeader(params.getHeaders()[i]);
    if (!header.ok()) return fail(header.status());
    if (store_.Lookup(std::span(&header->key, 1)) == 1) continue;
    wanted.push_back(i);
    headers.push_back(std::move(*header));
  }
  auto out = results.initWanted(static_cast<uint32_t>(wanted.size()));
  for (uint32_t i = 0; i < wanted.size(); ++i) out.set(i, wanted[i]);
  if (wanted.empty()) return kj::READY_NOW;
  auto incoming = ExpectBlocks(context_, {WorkerId(params.getFrom()), ToString(params.getTransportAddress())}, wanted.size(), 1, BlockDigests::kNone);  // Put makes them
  if (!incoming.ok()) return fail(incoming.status());
  context_.WriteTarget(incoming->id, results.initTarget());
  results.setSession(kj::heap<PutSessionImpl>(context_, store_, io_, std::move(headers), kj::mv(incoming->landed)));
  return kj::READY_NOW;
}

kj::Promise<void> StoreService::lookup(LookupContext context) {
  auto keys = ReadKeys(context.getParams().getKeys());
  context.getResults().setCount(keys.ok() ? static_cast<uint32_t>(store_.Lookup(*keys)) : 0);
  return kj::READY_NOW;
}

kj::Promise<void> StoreService::stats(StatsContext context) {
  context.getResults().setJson(StoreStatsJson(store_));
  return kj::READY_NOW;
}

kj::Promise<void> StoreService::flush(FlushContext context) {
  return OnIoThread(context_, io_, [&store = store_]() { return store.Flush(); }).then([context](Status status) mutable {
    WriteStatus(status, context.getResults().initStatus());
  });
}

}  // namespace baton
