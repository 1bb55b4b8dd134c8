#include "worker/decode_service.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "base/cache_record.h"
#include "base/log.h"
#include "kvstore/incoming_transfer.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

const std::vector<double> kExposedBuckets = {5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 1};

using GenerateCall = capnp::CallContext<wire::Decode::GenerateParams, wire::Decode::GenerateResults>;

/// One generate call, from its request to its last token. Destroying it cancels: the engine's request, the transfer and the
/// prefill worker's part all end, and every block goes back.
class DecodeCall final : public EngineClient {
 public:
  DecodeCall(WorkerContext& context, EngineHost& engine, StoreClient& store, const DecodeService::Counters& counters,
             GenerateCall call)
      : context_(context), engine_(engine), store_(store), counters_(counters), call_(call), sink_(call.getParams().getSink()) {}

  kj::Promise<void> Run();

 private:
  kj::Promise<void> Fail(const Status& status) {
    WriteStatus(status, call_.getResults().initStatus());
    return kj::READY_NOW;
  }
  bool TakeTime();
  kj::Promise<void> Prepare();
  kj::Promise<Status> PrefillAt(MemberInfo worker);
  kj::Promise<Status> OnPrefilled(const MemberInfo& worker, LandedBlocks landed, capnp::Response<wire::Prefill::PrefillResults> answer);
  Status Accept(const MemberInfo& worker, Result<Landed> landed, const std::vector<Digest128>& digests);
  kj::Promise<void> PrefillHere();
  kj::Promise<void> Start();
  void KeepBlocks();
  void SendRoute(const RequestStats& stats);
  void SendTokens(const TokenEvent* tokens, size_t count);
  void OnTokens(const std::vector<TokenEvent>& tokens) override;
  void OnEnd(FinishReason reason, const RequestStats& stats, const Status& status) override;

  uint32_t block_tokens() const { return context_.layout.block_tokens; }

  WorkerContext& context_;
  const OpenCall open_{context_};
  EngineHost& engine_;
  StoreClient& store_;
  const DecodeService::Counters& counters_;
  GenerateCall call_;
  wire::TokenSink::Client sink_;
  ReceivedRequest request_;
  Instant deadline_ = Instant::max();       // of the request, on this worker's clock
  std::deque<MemberInfo> prefill_workers_;  // still to try
  std::vector<BlockKey> chain_;             // of the prompt's full blocks
  BlockRefs blocks_;                        // that hold the prompt's KV from its start
  uint32_t ready_tokens_ = 0, cached_tokens_ = 0;
  uint32_t written_at_prefill_ = 0;         // tokens whose blocks the prefill worker published
  std::optional<TokenEvent> first_token_;   // from a prefill worker; already sent
  bool first_token_valid_ = false;          // its KV landed too: the engine goes on from it
  uint32_t skip_tokens_ = 0;                // already sent, about to be computed again (to the very same tokens)
  std::string route_;
  kj::Own<EngineHost::Handle> handle_;
  kj::Own<kj::PromiseFulfiller<void>> ended_;
  Background sends_{"token stream"};
};

kj::Promise<void> DecodeCall::Run() {
  auto params = call_.getParams();
  auto received = ReadRequest(params.getRequest());
  if (!received.ok()) return Fail(received.status());
  request_ = std::move(*received);
  if (request_.request.deadline_s > 0) deadline_ = context_.clock.Now() + FromSeconds(request_.request.deadline_s);
  if (request_.request.prompt.empty()) return Fail(InvalidError("the prompt is empty"));
  store_.Know(request_.root, BaseTenant(request_.request.tenant));
  for (const auto member : params.getPrefill()) {
    auto worker = ReadMember(member);
    if (worker.ok()) prefill_workers_.push_back(std::move(*worker));
  }
  call_.releaseParams();
  chain_ = KeyChain(request_.root, request_.request.prompt, block_tokens());
  const size_t usable = (request_.request.prompt.size() - 1) / block_tokens();  // at least the last token is computed
  blocks_ = BlockRefs(context_.pool, context_.pool.Lookup(std::span(chain_).first(usable)));
  return Prepare();
}

/// Tries each prefill worker in turn, then computes here.
kj::Promise<void> DecodeCall::Prepare() {
  if (!TakeTime()) return Fail(DeadlineError("the request's deadline passed before its prompt was computed"));
  if (prefill_workers_.empty()) return PrefillHere();
  MemberInfo worker = std::move(prefill_workers_.front());
  prefill_workers_.pop_front();
  if (worker.id == context_.self) return PrefillHere();
  return PrefillAt(worker).then([this, worker](Status status) -> kj::Promise<void> {
    if (status.ok()) {
      counters_.remote.Increment();
      return Start();
    }
    if (status.code() == StatusCode::kInvalid) return Fail(status);
    counters_.fallback.Increment();
    LOG_WARN("request {}: prefill at {} failed, trying elsewhere: {}", request_.request.id.value, worker.name, status.ToString());
    return Prepare();
  });
}

kj::Promise<Status> DecodeCall::PrefillAt(MemberInfo worker) {
  const auto have = static_cast<uint32_t>(blocks_.size());
  const size_t total = CeilDiv(request_.request.prompt.size(), block_tokens());
  auto incoming = ExpectBlocks(context_, {worker.id, worker.transport_address}, total - have, context_.layout.layers, BlockDigests::kMade);
  if (!incoming.ok()) return Status(UnavailableError("no room for the landing blocks: {}", incoming.status().message()));
  return context_.peers.Dial(worker.address).then(
      [this, worker, have, incoming = std::move(*incoming)](Result<kj::Own<Peer>> peer) mutable -> kj::Promise<Status> {
        if (!peer.ok()) return Status(UnavailableError("{}", peer.status().message()));
        auto request = (*peer)->prefill.prefillRequest();
        WriteRequest(request_.request, request_.root, request.initRequest());
        request.setFirstBlock(have);
        context_.WriteTarget(incoming.id, request.initTarget());
        auto answer = (*peer)->Guard(kj::Promise<capnp::Response<wire::Prefill::PrefillResults>>(request.send()));
        auto done = answer.then([this, worker, landed = kj::mv(incoming.landed)](capnp::Response<wire::Prefill::PrefillResults> r) mutable {
          return OnPrefilled(worker, kj::mv(landed), kj::mv(r));
        });
        // The landing's deadline is the call's: an answer after it is of no use.
        return CatchAsStatus(context_.timer.timeoutAfter(context_.timeout.count() * kj::NANOSECONDS, (*peer)->Guard(kj::mv(done))));
      });
}

kj::Promise<Status> DecodeCall::OnPrefilled(const MemberInfo& worker, LandedBlocks landed, capnp::Response<wire::Prefill::PrefillResults> answer) {
  const Status status = ReadStatus(answer.getStatus());
  if (!status.ok()) return status;
  const RequestStats stats = ReadStats(answer.getStats());
  if (!first_token_) {
    first_token_ = ReadToken(answer.getFirstToken());
    cached_tokens_ = stats.cached_tokens;
    written_at_prefill_ = stats.cache_write_tokens;
    route_ = fmt::format("decode={} prefill={} cached={}", context_.self.value, worker.id.value, cached_tokens_);
    RequestStats known = stats;
    known.route = route_;
    SendRoute(known);
    SendTokens(&*first_token_, 1);
  }
  // Not asked for ahead of the answer: a call that waits for the prefill's result would keep the prefill going after its caller had gone.
  auto digests = answer.getDigests();
  const Instant begin = context_.clock.Now();
  auto read = digests.getRequest().send().then([](capnp::Response<wire::Digests::GetResults> r) {
    std::vector<Digest128> out;
    for (const auto digest : r.getDigests()) out.push_back(ReadDigest(digest));
    return out;
  });
  return read.then([this, worker, begin, landed = kj::mv(landed)](std::vector<Digest128> list) mutable {
    return landed.then([this, worker, begin, list = std::move(list)](Result<Landed> blocks) {
      const Status status = Accept(worker, std::move(blocks), list);
      if (status.ok()) counters_.exposed_s.Observe(ToSeconds(context_.clock.Now() - begin));
      return status;
    });
  }).attach(kj::mv(digests));  // dropping it ends the hand-off
}

/// The landed blocks become this request's, and the full ones everybody's here.
Status DecodeCall::Accept(const MemberInfo& worker, Result<Landed> landed, const std::vector<Digest128>& digests) {
  if (!landed.ok()) return landed.status();
  const Status verified = landed->Verify(digests);
  if (!verified.ok()) {
    counters_.corrupt.Increment();
    return verified.WithContext(fmt::format("hand-off from {}", worker.name));
  }
  const size_t have = blocks_.size();
  BlockRefs& blocks = landed->blocks;
  for (size_t i = 0; i < blocks.size() && have + i < chain_.size(); ++i) {
    const BlockKey parent = have + i == 0 ? request_.root : chain_[have + i - 1];
    context_.pool.Publish(blocks.ids()[i], chain_[have + i], parent, digests[i]);
  }
  blocks_.Append(std::move(blocks));
  ready_tokens_ = static_cast<uint32_t>(request_.request.prompt.size());
  first_token_valid_ = true;
  return OkStatus();
}

kj::Promise<void> DecodeCall::PrefillHere() {
  counters_.local.Increment();
  const size_t usable = (request_.request.prompt.size() - 1) / block_tokens();
  std::vector<BlockKey> chain(chain_.begin(), chain_.begin() + usable);
  const size_t own = blocks_.size();
  return store_.Fetch(std::move(chain), own).then([this, own](BlockRefs fetched) {
    const size_t from_store = fetched.size();
    blocks_.Append(std::move(fetched));
    ready_tokens_ = static_cast<uint32_t>(blocks_.size() * block_tokens());
    if (first_token_) {
      skip_tokens_ = 1;  // a prefill worker's token went out, its KV did not arrive
    } else {
      cached_tokens_ = ready_tokens_;
      route_ = fmt::format("decode={} prefill=here cached={} (own {}, store {})", context_.self.value, cached_tokens_, own * block_tokens(),
                           from_store * block_tokens());
      RequestStats known;
      known.prompt_tokens = static_cast<uint32_t>(request_.request.prompt.size());
      known.cached_tokens = cached_tokens_;
      known.cache_write_tokens = known.prompt_tokens / block_tokens() * block_tokens() - cached_tokens_;
      known.route = route_;
      SendRoute(known);
    }
    return Start();
  });
}

/// For a cache handle: what was not computed here goes to the store as well, which takes what it lacks.
void DecodeCall::KeepBlocks() {
  for (uint32_t i = 0; i < std::min(chain_.size(), blocks_.size()); ++i) {
    const BlockId block = blocks_.ids()[i];
    const auto digest = context_.pool.DigestOf(block);
    if (!digest) continue;  // the same block is published from elsewhere; a later request of the handle's finds that one
    const auto first = request_.request.prompt.begin() + static_cast<ptrdiff_t>(size_t{i} * block_tokens());
    context_.pool.Ref(block);
    store_.PutBehind({block, chain_[i], i == 0 ? request_.root : chain_[i - 1], *digest, i, {first, first + block_tokens()}}, chain_.front());
  }
}

/// Leaves in the request what is left of its time; false when that is nothing.
bool DecodeCall::TakeTime() {
  if (deadline_ == Instant::max()) return true;
  request_.request.deadline_s = ToSeconds(deadline_ - context_.clock.Now());
  return request_.request.deadline_s > 0;
}

kj::Promise<void> DecodeCall::Start() {
  if (!TakeTime()) return Fail(DeadlineError("the request's deadline passed before its prompt was computed"));
  if (request_.request.keep) KeepBlocks();
  EngineRequest request;
  request.request = request_.request;
  request.root = request_.root;
  request.ready_tokens = ready_tokens_;
  request.cached_tokens = std::min(cached_tokens_, ready_tokens_);  // fewer where a prefill worker's KV did not arrive
  request.blocks = blocks_.ids();
  if (first_token_valid_) request.first_token = first_token_;
  auto handle = engine_.Submit(std::move(request), *this);
  if (!handle.ok()) return Fail(handle.status());
  blocks_.Release();  // the engine's now
  handle_ = kj::heap<EngineHost::Handle>(std::move(*handle));
  auto pair = kj::newPromiseAndFulfiller<void>();
  ended_ = kj::mv(pair.fulfiller);
  return kj::mv(pair.promise);
}

void DecodeCall::SendRoute(const RequestStats& stats) {
  auto request = sink_.routeRequest();
  WriteStats(stats, request.initStats());
  sends_.Add(request.send());
}

void DecodeCall::SendTokens(const TokenEvent* tokens, size_t count) {
  auto request = sink_.tokensRequest();
  auto batch = request.initBatch(static_cast<uint32_t>(count));
  for (uint32_t i = 0; i < count; ++i) WriteToken(tokens[i], batch[i]);
  sends_.Add(request.send());
}

void DecodeCall::OnTokens(const std::vector<TokenEvent>& tokens) {
  const size_t skip = std::min<size_t>(skip_tokens_, tokens.size());
  skip_tokens_ -= static_cast<uint32_t>(skip);
  if (skip < tokens.size()) SendTokens(tokens.data() + skip, tokens.size() - skip);
}

void DecodeCall::OnEnd(FinishReason reason, const RequestStats& stats, const Status& status) {
  WriteStatus(status, call_.getResults().initStatus());
  if (!status.ok()) return ended_->fulfill();
  auto request = sink_.endRequest();
  request.setReason(static_cast<uint8_t>(reason));
  RequestStats final_stats = stats;
  final_stats.cached_tokens = cached_tokens_;
  if (first_token_valid_) final_stats.cache_write_tokens += written_at_prefill_;  // else all of it was computed here again
  final_stats.route = route_;
  WriteStats(final_stats, request.initStats());
  sends_.Add(request.send().ignoreResult().then([this]() { ended_->fulfill(); }, [this](kj::Exception&& e) { ended_->reject(kj::mv(e)); }));
}

}  // namespace

DecodeService::DecodeService(WorkerContext& context, EngineHost& engine, StoreClient& store)
    : context_(context),
      engine_(engine),
      store_(store),
      counters_{context.metrics.Counter("baton_worker_prefill_remote_total", "Requests whose prompt a prefill worker computed"),
                context.metrics.Counter("baton_worker_prefill_local_total", "Requests whose prompt was computed here"),
                context.metrics.Counter("baton_worker_prefill_fallback_total", "Prefill workers that failed a request"),
                context.metrics.Counter("baton_worker_handoff_corrupt_total", "Hand-offs whose digest was wrong: computed again"),
                context.metrics.Histogram("baton_worker_handoff_exposed_seconds",
                                          "From the end of a prefill elsewhere until its last byte was here and verified", kExposedBuckets)} {}

kj::Promise<void> DecodeService::generate(GenerateContext context) {
  context.allowCancellation();
  auto call = kj::heap<DecodeCall>(context_, engine_, store_, counters_, context);
  auto done = call->Run();
  return done.attach(kj::mv(call));
}

}  // namespace baton
