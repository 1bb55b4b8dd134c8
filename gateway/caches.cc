#include "gateway/caches.h"

#include <fmt/format.h>

#include <utility>

#include "base/log.h"

namespace baton {

Caches::Caches(Backend& backend, const Clock& clock, Random& random, size_t max_per_tenant)
    : backend_(backend), clock_(clock), random_(random), table_(max_per_tenant) {}

CacheHandle Caches::Describe(CacheRecord record, const HeldBlocks& blocks) const {
  const auto full = static_cast<uint32_t>(record.tokens.size() / std::max(1u, backend_.card().block_tokens));
  return {std::move(record), blocks, full};
}

Caches::Made Caches::Create(std::string tenant, std::vector<TokenId> tokens, double expires_unix_s, HoldMode mode) {
  table_.Sweep(now());
  if (const Status room = table_.CheckCount(BaseTenant(tenant), now()); !room.ok()) return Result<CacheHandle>(room);
  CacheRecord record{fmt::format("cache_{:016x}{:016x}", random_.Next64(), random_.Next64()), std::move(tenant), std::move(tokens), now(), expires_unix_s};
  auto held = backend_.HoldCache(record, mode);
  return held.then([this, record = std::move(record)](Result<HeldBlocks> blocks) mutable -> Result<CacheHandle> {
    if (!blocks.ok()) {
      LetGo(record.id);  // the store may have held it, and its word was lost
      return blocks.status();
    }
    table_.Put(record);
    return Describe(std::move(record), *blocks);
  });
}

kj::Promise<Result<CacheRecord>> Caches::Find(std::string id, std::string tenant) {
  auto found = table_.Find(id, tenant, now());
  if (found.ok() || !IsCacheId(id) || table_.Erased(id)) return kj::mv(found);
  auto stored = backend_.StoredCaches(tenant, id);
  return stored.then([this, id = std::move(id), tenant = std::move(tenant)](std::vector<CacheRecord> records) {
    Learn(std::move(records));
    return table_.Find(id, tenant, now());
  });
}

/// Takes in what stores kept over a restart of the gateway; what was deleted while a store was away is deleted there now.
void Caches::Learn(std::vector<CacheRecord> records) {
  for (CacheRecord& record : records) {
    if (table_.Erased(record.id)) LetGo(record.id);
    else if (!table_.Find(record.id, BaseTenant(record.tenant), now()).ok()) table_.Put(std::move(record));
  }
}

void Caches::LetGo(const std::string& id) {
  tasks_.Add(backend_.ReleaseCache(id).then([id](Status status) {
    if (!status.ok()) LOG_DEBUG("gateway cache {} is not released: {}", id, status.message());
  }));
}

/// Holds again what is there: a store that lost its pins when it was started anew gets them back.
kj::Promise<CacheHandle> Caches::Look(CacheRecord record) {
  auto held = backend_.HoldCache(record, HoldMode::kAsIs);
  return held.then([this, record = std::move(record)](Result<HeldBlocks> blocks) mutable {
    return Describe(std::move(record), blocks.ok() ? *blocks : HeldBlocks());
  });
}

Caches::Made Caches::Get(std::string id, std::string tenant) {
  return Find(std::move(id), std::move(tenant)).then([this](Result<CacheRecord> record) -> Made {
    if (!record.ok()) return Result<CacheHandle>(record.status());
    return Look(std::move(*record)).then([](CacheHandle handle) { return Result<CacheHandle>(std::move(handle)); });
  });
}

kj::Promise<std::vector<CacheHandle>> Caches::List(std::string tenant) {
  auto stored = backend_.StoredCaches(tenant, "");
  return stored.then([this, tenant = std::move(tenant)](std::vector<CacheRecord> records) {
    Learn(std::move(records));
    kj::Vector<kj::Promise<CacheHandle>> looks;
    for (CacheRecord& record : table_.List(tenant, now())) looks.add(Look(std::move(record)));
    return kj::joinPromises(looks.releaseAsArray()).then([](kj::Array<CacheHandle> handles) {
      return std::vector<CacheHandle>(std::make_move_iterator(handles.begin()), std::make_move_iterator(handles.end()));
    });
  });
}

Caches::Made Caches::Change(std::string id, std::string tenant, Edit edit) {
  return Find(std::move(id), std::move(tenant)).then([this, edit = std::move(edit)](Result<CacheRecord> record) -> Made {
    if (!record.ok()) return Result<CacheHandle>(record.status());
    auto changed = edit(*record);
    if (!changed.ok()) return Result<CacheHandle>(changed.status());
    const std::string id = record->id;
    if (!changing_.insert(id).second) return Result<CacheHandle>(AbortedError("another change of '{}' is under way; try again when it has been answered", id));
    auto held = backend_.HoldCache(*changed, HoldMode::kComplete);
    return held.then([this, changed = std::move(*changed)](Result<HeldBlocks> blocks) mutable -> Result<CacheHandle> {
      if (!blocks.ok()) return blocks.status();
      if (!table_.Put(changed)) {
        LetGo(changed.id);
        return NotFoundError("the cache '{}' was deleted meanwhile", changed.id);
      }
      return Describe(std::move(changed), *blocks);
    }).attach(kj::defer([this, id] { changing_.erase(id); }));
  });
}

Caches::Made Caches::Fork(std::string id, std::string tenant, Edit edit) {
  return Find(std::move(id), std::move(tenant)).then([this, edit = std::move(edit)](Result<CacheRecord> record) -> Made {
    if (!record.ok()) return Result<CacheHandle>(record.status());
    auto forked = edit(std::move(*record));
    if (!forked.ok()) return Result<CacheHandle>(forked.status());
    return Create(std::move(forked->tenant), std::move(forked->tokens), forked->expires_unix_s, HoldMode::kComplete);
  });
}

kj::Promise<Status> Caches::Delete(std::string id, std::string tenant) {
  return Find(std::move(id), std::move(tenant)).then([this](Result<CacheRecord> record) -> kj::Promise<Status> {
    if (!record.ok()) return record.status();
    table_.Erase(record->id);
    return backend_.ReleaseCache(record->id).then([](Status) { return OkStatus(); });  // a store that is away is told when it is back
  });
}

void Caches::Used(const CacheRecord& record) {
  if (!healing_.insert(record.id).second) return;
  tasks_.Add(backend_.HoldCache(record, HoldMode::kFresh).then([this, record](Result<HeldBlocks> blocks) {
    healing_.erase(record.id);
    if (!blocks.ok()) LOG_DEBUG("gateway cache {} is not wholly held: {}", record.id, blocks.status().message());
    // Meanwhile it may have been changed or deleted: what it is now counts.
    const auto now_record = table_.Find(record.id, BaseTenant(record.tenant), now());
    if (!now_record.ok()) LetGo(record.id);
    else if (!(*now_record == record)) tasks_.Add(backend_.HoldCache(*now_record, HoldMode::kAsIs).ignoreResult());
  }));
}

}  // namespace baton
