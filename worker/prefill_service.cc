#include "worker/prefill_service.h"

#include <memory>
#include <optional>
#include <utility>

#include "base/cache_record.h"
#include "base/log.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"
#include "worker/layer_pusher.h"

namespace baton {
namespace {

/// The sending end of one hand-off: keeps the request's blocks until the transport has let go of them.
class HandOff {
  struct Held {
    explicit Held(WorkerContext& context) : open(context) {}
    OpenCall open;
    EngineHost::Handle handle;
  };

 public:
  HandOff(WorkerContext& context, TransferId transfer, std::shared_ptr<LayerPusher> pusher)
      : context_(context), transfer_(transfer), pusher_(std::move(pusher)), held_(std::make_shared<Held>(context)) {}
  HandOff(const HandOff&) = delete;
  HandOff& operator=(const HandOff&) = delete;
  /// Dropped before Close: nobody waits for the bytes any more.
  ~HandOff() {
    held_->handle.Cancel();
    pusher_->Stop();  // the engine may be in the middle of a step
    context_.pump.Cancel(transfer_);
    if (!closed_) Close();
  }

  void Hold(EngineHost::Handle handle) { held_->handle = std::move(handle); }
  /// All pushes have been made.
  void Close() {
    closed_ = true;
    context_.pump.CloseSend(transfer_, [&loop = context_.loop, held = held_](const Status&) mutable {
      loop.Post([held = std::move(held)] {});  // the last reference gives the blocks back, on the loop's thread
    });
  }
  std::vector<Digest128> Digests() const {
    std::vector<Digest128> digests;
    for (const BlockId block : pusher_->blocks()) {
      const auto published = context_.pool.DigestOf(block);
      digests.push_back(published ? *published : Xxh3({context_.pool.data(block), context_.pool.block_bytes()}));
    }
    return digests;
  }

 private:
  WorkerContext& context_;
  const TransferId transfer_;
  const std::shared_ptr<LayerPusher> pusher_;
  const std::shared_ptr<Held> held_;
  bool closed_ = false;
};

class DigestsImpl final : public wire::Digests::Server {
 public:
  explicit DigestsImpl(kj::Own<HandOff> hand_off) : hand_off_(kj::mv(hand_off)) {}
  kj::Promise<void> get(GetContext context) override {
    const std::vector<Digest128> digests = hand_off_->Digests();
    auto out = context.getResults().initDigests(static_cast<uint32_t>(digests.size()));
    for (uint32_t i = 0; i < digests.size(); ++i) WriteDigest(digests[i], out[i]);
    return kj::READY_NOW;
  }

 private:
  const kj::Own<HandOff> hand_off_;
};

using PrefillCallContext = capnp::CallContext<wire::Prefill::PrefillParams, wire::Prefill::PrefillResults>;

/// One prefill call, from its request to the first token. Destroying it cancels.
class PrefillCall final : public EngineClient {
 public:
  PrefillCall(WorkerContext& context, EngineHost& engine, StoreClient& store, PrefillCallContext call)
      : context_(context), engine_(engine), store_(store), call_(call) {}

  kj::Promise<void> Run() {
    auto params = call_.getParams();
    auto received = ReadRequest(params.getRequest());
    if (!received.ok()) return Fail(received.status());
    request_ = std::move(*received);
    const auto& prompt = request_.request.prompt;
    if (prompt.empty()) return Fail(InvalidError("a prefill without a prompt"));
    store_.Know(request_.root, BaseTenant(request_.request.tenant));
    const size_t usable = (prompt.size() - 1) / context_.layout.block_tokens;  // at least the last token is computed: its logits are wanted
    if (params.getFirstBlock() > usable) return Fail(InvalidError("firstBlock is {}, a prompt of {} tokens has {} to push after", params.getFirstBlock(), prompt.size(), usable));
    const auto target = params.getTarget();
    plan_ = {TransferId(target.getTransfer()), {WorkerId(target.getWorker()), ToString(target.getTransportAddress())}, params.getFirstBlock(),
             static_cast<uint32_t>(prompt.size())};
    call_.releaseParams();
    std::vector<BlockKey> chain = KeyChain(request_.root, std::span(prompt).first(usable * context_.layout.block_tokens), context_.layout.block_tokens);
    ready_ = BlockRefs(context_.pool, context_.pool.Lookup(chain));
    const Instant arrived = context_.clock.Now();
    return store_.Fetch(std::move(chain), ready_.size()).then([this, arrived](BlockRefs fetched) {
      ready_.Append(std::move(fetched));
      double& left_s = request_.request.deadline_s;
      if (left_s > 0 && (left_s -= ToSeconds(context_.clock.Now() - arrived)) <= 0) {
        return Fail(DeadlineError("the request's deadline passed while the store was read"));
      }
      return Start();
    });
  }

 private:
  kj::Promise<void> Fail(const Status& status) {
    WriteStatus(status, call_.getResults().initStatus());
    return kj::READY_NOW;
  }

  kj::Promise<void> Start() {
    auto pusher = std::make_shared<LayerPusher>(context_.pump, context_.pool, context_.layout, plan_);
    EngineRequest request;
    request.request = std::move(request_.request);
    request.root = request_.root;
    request.ready_tokens = static_cast<uint32_t>(ready_.size() * context_.layout.block_tokens);
    request.cached_tokens = request.ready_tokens;
    request.blocks = ready_.ids();
    request.prefill_only = true;
    hand_off_ = kj::heap<HandOff>(context_, plan_.transfer, pusher);
    auto handle = engine_.Submit(std::move(request), *this, pusher);
    if (!handle.ok()) return Fail(handle.status());
    ready_.Release();  // the engine's now
    hand_off_->Hold(std::move(*handle));
    auto pair = kj::newPromiseAndFulfiller<void>();
    ended_ = kj::mv(pair.fulfiller);
    return kj::mv(pair.promise);
  }

  void OnTokens(const std::vector<TokenEvent>& tokens) override {
    if (!tokens.empty()) first_ = tokens.front();
  }
  void OnEnd(FinishReason reason, const RequestStats& stats, const Status& status) override {
    auto results = call_.getResults();
    if (!status.ok() || !first_) {
      WriteStatus(status.ok() ? CancelledError("the prefill ended ({}) before its first token", static_cast<int>(reason)) : status, results.initStatus());
    } else {
      hand_off_->Close();
      WriteToken(*first_, results.initFirstToken());
      WriteStats(stats, results.initStats());
      results.setDigests(kj::heap<DigestsImpl>(kj::mv(hand_off_)));
    }
    ended_->fulfill();
  }

  WorkerContext& context_;
  const OpenCall open_{context_};
  EngineHost& engine_;
  StoreClient& store_;
  PrefillCallContext call_;
  ReceivedRequest request_;
  LayerPusher::Plan plan_;
  BlockRefs ready_;
  std::optional<TokenEvent> first_;
  kj::Own<HandOff> hand_off_;
  kj::Own<kj::PromiseFulfiller<void>> ended_;
};

}  // namespace

kj::Promise<void> PrefillService::prefill(PrefillContext context) {
  context.allowCancellation();
  auto call = kj::heap<PrefillCall>(context_, engine_, store_, context);
  auto done = call->Run();
  return done.attach(kj::mv(call));
}

}  // namespace baton
