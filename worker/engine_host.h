// The engine between its own thread and the loop: requests go in from the loop, events come back to it in batches.
#pragma once

#include <kj/async.h>

#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "kvstore/block_refs.h"
#include "protocol/loop.h"
#include "worker/engine.h"

namespace baton {

/// Receives one request's events, on the loop's thread; OnEnd once, last.
class EngineClient {
 public:
  virtual ~EngineClient() noexcept(false) = default;  // implementations own kj promises
  virtual void OnTokens(const std::vector<TokenEvent>& tokens) = 0;
  virtual void OnEnd(FinishReason reason, const RequestStats& stats, const Status& status) = 0;
};

/// Receives a prefill's layers, on the engine's thread (see EngineListener::OnLayer).
class LayerSink {
 public:
  virtual ~LayerSink() = default;
  virtual void OnLayer(uint32_t layer, uint32_t begin, uint32_t end, const std::vector<BlockId>& blocks) = 0;
};

/// Thread: the loop's, except where a method says otherwise.
class EngineHost final : private EngineListener {
 public:
  /// `on_sealed` gets each block computed here and the first key of its chain, on the loop's thread.
  using OnSealedBlock = std::function<void(SealedBlock block, const BlockKey& first)>;
  /// Brings blocks chain[have…] that were computed here before back into the pool, as far as it can.
  using FetchBlocks = std::function<kj::Promise<BlockRefs>(std::vector<BlockKey> chain, size_t have)>;
  /// Makes the engine step until the result is destroyed, which ends every request as EngineThread's destructor does.
  using Drive = std::function<std::shared_ptr<void>(Engine&)>;
  static std::shared_ptr<void> OnOwnThread(Engine& engine) { return std::make_shared<EngineThread>(engine); }
  EngineHost(const EngineConfig& config, Model& model, BlockPool& pool, const Clock& clock, LoopQueue& loop, OnSealedBlock on_sealed,
             FetchBlocks fetch = {}, const Drive& drive = OnOwnThread);
  ~EngineHost() noexcept override;

  /// A handle's destruction cancels the request (if it runs), ends its events and gives its blocks back at the next step.
  class Handle {
   public:
    Handle() = default;
    Handle(EngineHost* host, RequestId local) : host_(host), local_(local) {}
    Handle(Handle&& other) noexcept : host_(std::exchange(other.host_, nullptr)), local_(other.local_) {}
    Handle& operator=(Handle&& other) noexcept {
      std::swap(host_, other.host_);
      std::swap(local_, other.local_);
      return *this;
    }
    ~Handle() {
      if (host_ == nullptr) return;
      host_->Cancel(local_);
      host_->Release(local_);
    }
    /// Ends the request and its events but, for one with a LayerSink, keeps its blocks until destruction.
    void Cancel() {
      if (host_ != nullptr) host_->Cancel(local_);
    }

   private:
    EngineHost* host_ = nullptr;
    RequestId local_;
  };

  /// `client` outlives the handle. The request runs under an id of the engine's own: one request may be here twice (prefill,
  /// and decode after a move). `layers` is kept until the engine has released the request's blocks.
  Result<Handle> Submit(EngineRequest request, EngineClient& client, std::shared_ptr<LayerSink> layers = nullptr);
  EngineLoad load() const { return engine_->load(); }
  size_t open_requests() const { return clients_.size(); }

 private:
  struct End {
    FinishReason reason;
    RequestStats stats;
    Status status;
  };
  struct Event {
    RequestId local;
    std::variant<TokenEvent, End, SealedBlock> what;
  };
  void OnToken(RequestId id, const TokenEvent& event) override;
  void OnEnd(RequestId id, FinishReason reason, const RequestStats& stats, const Status& status) override;
  void OnSealed(RequestId id, SealedBlock block) override;
  void OnLayer(RequestId id, uint32_t layer, uint32_t begin, uint32_t end, const std::vector<BlockId>& blocks) override;
  bool OnResume(RequestId id, std::span<const BlockKey> keys) override;

  void Add(Event event);
  void Deliver();
  void Cancel(RequestId local);
  void Release(RequestId local);
  BlockKey FirstKey(RequestId local, const SealedBlock& block);

  const OnSealedBlock on_sealed_;
  const FetchBlocks fetch_;
  BlockPool& pool_;
  LoopQueue& loop_;
  const uint32_t block_tokens_;
  uint64_t next_local_ = 1;
  std::unordered_map<RequestId, EngineClient*> clients_;
  std::unordered_map<RequestId, BlockKey> first_keys_;  // of running requests whose first block is full
  std::mutex mutex_;                                      // guards events_ and layers_
  std::vector<Event> events_;
  std::unordered_map<RequestId, std::shared_ptr<LayerSink>> layers_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::unique_ptr<Engine> engine_;
  std::shared_ptr<void> drive_;
  Background fetches_{"blocks of preempted requests"};
};

}  // namespace baton
