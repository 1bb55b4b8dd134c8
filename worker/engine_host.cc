#include "worker/engine_host.h"

#include <utility>

namespace baton {

EngineHost::EngineHost(const EngineConfig& config, Model& model, BlockPool& pool, const Clock& clock, LoopQueue& loop, OnSealedBlock on_sealed,
                       FetchBlocks fetch, const Drive& drive)
    : on_sealed_(std::move(on_sealed)),
      fetch_(std::move(fetch)),
      pool_(pool),
      loop_(loop),
      block_tokens_(model.kv_layout().block_tokens),
      engine_(Engine::Create(config, model, pool, *this, clock)),
      drive_(drive(*engine_)) {}

EngineHost::~EngineHost() noexcept {
  drive_.reset();  // ends every request; its events are dropped with this object
  *alive_ = false;
  for (Event& event : events_) {
    if (auto* sealed = std::get_if<SealedBlock>(&event.what)) on_sealed_(std::move(*sealed), sealed->key);
  }
}

Result<EngineHost::Handle> EngineHost::Submit(EngineRequest request, EngineClient& client, std::shared_ptr<LayerSink> layers) {
  const RequestId local(next_local_++);
  request.request.id = local;
  request.push_layers = layers != nullptr;
  if (request.request.prompt.size() >= block_tokens_) {
    first_keys_[local] = NextKey(request.root, std::span(request.request.prompt).first(block_tokens_));
  }
  if (layers != nullptr) {
    std::lock_guard lock(mutex_);
    layers_[local] = std::move(layers);
  }
  clients_[local] = &client;
  const Status status = engine_->Submit(std::move(request));
  if (status.ok()) return Handle(this, local);
  clients_.erase(local);
  first_keys_.erase(local);
  std::lock_guard lock(mutex_);
  layers_.erase(local);
  return status;
}

void EngineHost::Cancel(RequestId local) {
  if (clients_.erase(local) > 0) engine_->Cancel(local);
}

void EngineHost::Release(RequestId local) {
  {
    std::lock_guard lock(mutex_);
    if (layers_.erase(local) == 0) return;
  }
  engine_->ReleaseHeld(local);
}

void EngineHost::OnToken(RequestId id, const TokenEvent& event) { Add({id, event}); }

void EngineHost::OnEnd(RequestId id, FinishReason reason, const RequestStats& stats, const Status& status) { Add({id, End{reason, stats, status}}); }

void EngineHost::OnSealed(RequestId id, SealedBlock block) { Add({id, std::move(block)}); }

void EngineHost::OnLayer(RequestId id, uint32_t layer, uint32_t begin, uint32_t end, const std::vector<BlockId>& blocks) {
  std::shared_ptr<LayerSink> sink;
  {
    std::lock_guard lock(mutex_);
    const auto found = layers_.find(id);
    if (found == layers_.end()) return;  // abandoned: nobody waits for these bytes
    sink = found->second;
  }
  sink->OnLayer(layer, begin, end, blocks);
}

bool EngineHost::OnResume(RequestId id, std::span<const BlockKey> keys) {
  if (!fetch_) return false;
  loop_.Post([this, alive = alive_, id, chain = std::vector<BlockKey>(keys.begin(), keys.end())]() mutable {
    if (!*alive) return;
    BlockRefs have(pool_, pool_.Lookup(chain));  // held, so that the rest fits behind it
    const size_t begin = have.size();
    fetches_.Add(fetch_(std::move(chain), begin).then([this, id, have = kj::mv(have)](BlockRefs more) mutable {
      have.Append(kj::mv(more));
      engine_->Resume(id, have.Release());
    }));
  });
  return true;
}

void EngineHost::Add(Event event) {
  bool first;
  {
    std::lock_guard lock(mutex_);
    first = events_.empty();
    events_.push_back(std::move(event));
  }
  if (first) {
    loop_.Post([this, alive = alive_] {
      if (*alive) Deliver();
    });
  }
}

BlockKey EngineHost::FirstKey(RequestId local, const SealedBlock& block) {
  if (block.depth == 0) return first_keys_[local] = block.key;
  const auto found = first_keys_.find(local);
  return found == first_keys_.end() ? block.key : found->second;
}

void EngineHost::Deliver() {
  std::vector<Event> events;
  {
    std::lock_guard lock(mutex_);
    events.swap(events_);
  }
  // Tokens of one request that came in one batch travel together; the order within a request is kept.
  std::unordered_map<RequestId, std::vector<TokenEvent>> tokens;
  const auto flush = [&](RequestId local) {
    const auto found = tokens.find(local);
    if (found == tokens.end()) return;
    const std::vector<TokenEvent> batch = std::move(found->second);
    tokens.erase(found);
    const auto client = clients_.find(local);
    if (client != clients_.end()) client->second->OnTokens(batch);
  };
  for (Event& event : events) {
    if (auto* token = std::get_if<TokenEvent>(&event.what)) {
      tokens[event.local].push_back(std::move(*token));
    } else if (auto* sealed = std::get_if<SealedBlock>(&event.what)) {
      const BlockKey first = FirstKey(event.local, *sealed);
      on_sealed_(std::move(*sealed), first);
    } else {
      flush(event.local);
      first_keys_.erase(event.local);
      const auto client = clients_.find(event.local);
      if (client == clients_.end()) continue;
      EngineClient* target = client->second;
      clients_.erase(client);
      const End& end = std::get<End>(event.what);
      target->OnEnd(end.reason, end.stats, end.status);
    }
  }
  while (!tokens.empty()) flush(tokens.begin()->first);
}

}  // namespace baton
