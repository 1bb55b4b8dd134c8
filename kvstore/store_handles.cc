// The store service's calls about cache handles.
#include <algorithm>
#include <utility>

#include "kvstore/explain.h"
#include "kvstore/io_call.h"
#include "kvstore/store_service.h"
#include "protocol/convert.h"
#include "protocol/wire_status.h"

namespace baton {
namespace {

constexpr size_t kMaxKeys = 1 << 16, kMaxRecordTokens = 1 << 24;  // of one handle
constexpr size_t kRecordsAtOnce = 16;

}  // namespace

kj::Promise<void> StoreService::hold(HoldContext context) {
  const auto params = context.getParams();
  auto keys = ReadKeys(params.getKeys());
  Status status = keys.status();
  if (keys.ok() && (keys->size() > kMaxKeys || params.getRecord().getTokens().size() > kMaxRecordTokens)) {
    status = InvalidError("a handle of {} blocks is too long", keys->size());
  }
  if (!status.ok()) {
    WriteStatus(status, context.getResults().initStatus());
    return kj::READY_NOW;
  }
  return OnIoThread(context_, io_, [&holds = holds_, record = ReadCacheRecord(params.getRecord()), keys = std::move(*keys), all = params.getAll()]() {
           return holds.Hold(record, keys, all);
         })
      .then([context](Result<HeldBlocks> held) mutable {
        WriteStatus(held.status(), context.getResults().initStatus());
        if (held.ok()) WriteHeldBlocks(*held, context.getResults().initBlocks());
      });
}

kj::Promise<void> StoreService::release(ReleaseContext context) {
  return OnIoThread(context_, io_, [&holds = holds_, id = ToString(context.getParams().getId())]() {
           holds.Release(id);
           return true;
         })
      .ignoreResult();
}

kj::Promise<void> StoreService::holds(HoldsContext context) {
  const auto params = context.getParams();
  auto work = [&holds = holds_, tenant = ToString(params.getTenant()), id = ToString(params.getId()), after = ToString(params.getAfter())]() {
    return id.empty() ? holds.List(tenant, after, kRecordsAtOnce + 1) : holds.Find(tenant, id);
  };
  return OnIoThread(context_, io_, std::move(work)).then([context](std::vector<CacheRecord> records) mutable {
    auto results = context.getResults();
    results.setMore(records.size() > kRecordsAtOnce);
    records.resize(std::min(records.size(), kRecordsAtOnce));
    auto out = results.initRecords(static_cast<uint32_t>(records.size()));
    for (uint32_t i = 0; i < records.size(); ++i) WriteCacheRecord(records[i], out[i]);
  });
}

kj::Promise<void> StoreService::explain(ExplainContext context) {
  const auto params = context.getParams();
  const auto root = ReadKey(params.getRoot());
  const uint32_t block_tokens = params.getBlockTokens();
  if (!root.ok() || block_tokens == 0 || params.getTokens().size() > kMaxRecordTokens) {
    WriteStatus(root.ok() ? InvalidError("{} tokens in blocks of {} cannot be explained", params.getTokens().size(), block_tokens) : root.status(),
                context.getResults().initStatus());
    return kj::READY_NOW;
  }
  return OnIoThread(context_, io_, [&store = store_, root = *root, tokens = ReadTokens(params.getTokens()), block_tokens]() {
           std::string json = "{\"blocks\":[";
           const auto verdicts = ExplainBlocks(store, root, tokens, block_tokens);
           for (const BlockVerdict& verdict : verdicts) json += (verdict.depth == 0 ? "" : ",") + VerdictJson(verdict);
           return json + "]}";
         })
      .then([context](std::string json) mutable { context.getResults().setJson(json); });
}

}  // namespace baton
