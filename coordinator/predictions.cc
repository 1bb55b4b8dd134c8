#include "coordinator/predictions.h"

#include <algorithm>

#include "base/bytes.h"

namespace baton {
namespace {

constexpr double kLongestPendingS = 2;  // a worker whose heartbeats stopped is dead by then

}  // namespace

void Predictions::PendingOfWorker::Push(const Pending& pending, Instant now) {
  requests.push_back(pending);
  queued_tokens = QueuedAt(now) + pending.prefill_tokens;
  queued_at = now;
  sum.queued_prefill_tokens += pending.prefill_tokens;
  sum.running += pending.decodes ? 1 : 0;
  sum.total_blocks += pending.blocks;
}

void Predictions::PendingOfWorker::Report(const WorkerLoad& load, Instant now) {
  tokens_per_s = load.prefill_tokens_per_s;
  queued_tokens = static_cast<double>(load.queued_prefill_tokens + sum.queued_prefill_tokens);
  queued_at = now;
}

void Predictions::PendingOfWorker::Erase(std::deque<Pending>::iterator at) {
  sum.queued_prefill_tokens -= at->prefill_tokens;
  sum.running -= at->decodes ? 1 : 0;
  sum.total_blocks -= at->blocks;
  queued_tokens = std::max(0.0, queued_tokens - at->prefill_tokens);  // nearly: some of it may have been computed
  requests.erase(at);
}

void Predictions::PendingOfWorker::EraseOlder(Instant now, double age_s) {
  while (!requests.empty() && ToSeconds(now - requests.front().at) >= age_s) Erase(requests.begin());
}

void Predictions::Sample(std::span<const BlockKey> keys) const {
  sample_.clear();
  lengths_.clear();
  // The places depend on nothing but the configuration, so equal prefixes of any two chains meet in equal keys.
  for (uint32_t length = config_.min_stride; length <= keys.size(); length += std::max(config_.min_stride, length / 5)) {
    sample_.push_back(keys[length - 1]);
    lengths_.push_back(length);
  }
  if (!lengths_.empty() && lengths_.back() < keys.size()) {  // the very same prompt meets in its end
    sample_.push_back(keys.back());
    lengths_.push_back(static_cast<uint32_t>(keys.size()));
  }
}

void Predictions::Expect(WorkerId worker, Instant now) {
  Prefix prefix{worker, now + FromSeconds(config_.prefix_ttl_s), {}};
  for (const BlockKey& key : sample_) {
    if (expected_.Add(worker, key)) prefix.keys.push_back(key);  // a sibling's goes when that one expires
  }
  if (!prefix.keys.empty()) prefixes_.push_back(std::move(prefix));
}

void Predictions::Routed(const RouteQuery& query, const RouteCandidate& chosen, std::span<const BlockKey> keys, Instant now) {
  const uint32_t uncached = query.prompt_tokens - chosen.cached_tokens;
  const auto blocks = static_cast<uint32_t>(CeilDiv(uint64_t{query.prompt_tokens} + 1, std::max(1u, query.block_tokens)));
  const bool local = chosen.prefill == WorkerId();
  pending_[chosen.decode].Push({query.request, now, local ? uncached : 0, blocks, true}, now);
  if (!local) pending_[chosen.prefill].Push({query.request, now, uncached, blocks, false}, now);
  if (uncached < config_.min_stride * query.block_tokens) return;  // nothing new that would show
  Sample(keys);
  Expect(local ? chosen.decode : chosen.prefill, now);
  while (prefixes_.size() > config_.max_prefixes) Forget();
}

void Predictions::Forget() {
  for (const BlockKey& key : prefixes_.front().keys) expected_.Remove(prefixes_.front().worker, key);
  prefixes_.pop_front();
}

void Predictions::Reported(WorkerId worker, const WorkerLoad& load, Instant now) {
  PendingOfWorker& pending = pending_[worker];
  pending.EraseOlder(now, config_.settle_s);
  pending.Report(load, now);
}

void Predictions::Finished(RequestId request, const RouteCandidate& chosen) {
  for (const WorkerId worker : {chosen.decode, chosen.prefill}) {
    const auto it = pending_.find(worker);
    if (it == pending_.end()) continue;
    auto& requests = it->second.requests;
    const auto at = std::find_if(requests.begin(), requests.end(), [&](const Pending& p) { return p.request == request; });
    if (at != requests.end()) it->second.Erase(at);
  }
}

void Predictions::Drop(WorkerId worker) {
  pending_.erase(worker);
  expected_.Drop(worker);
  std::erase_if(prefixes_, [&](const Prefix& p) { return p.worker == worker; });
}

void Predictions::Expire(Instant now) {
  while (!prefixes_.empty() && prefixes_.front().until <= now) Forget();
  for (auto& [worker, pending] : pending_) pending.EraseOlder(now, kLongestPendingS);
}

void Predictions::AddTo(std::span<WorkerView> views, Instant now) const {
  for (const auto& [worker, pending] : pending_) {
    if (pending.requests.empty() && pending.queued_tokens == 0) continue;
    const auto view = std::lower_bound(views.begin(), views.end(), worker, [](const WorkerView& v, WorkerId id) { return v.id < id; });
    if (view == views.end() || view->id != worker) continue;
    view->load.queued_prefill_tokens = static_cast<uint64_t>(pending.QueuedAt(now));
    view->load.running += pending.sum.running;
    view->load.free_blocks -= std::min(view->load.free_blocks, pending.sum.total_blocks);
  }
}

void Predictions::Match(std::span<const BlockKey> keys, std::vector<PrefixMatch>& out) const {
  Sample(keys);
  expected_.Match(sample_, out);
  for (PrefixMatch& match : out) match.blocks = lengths_[match.blocks - 1];
}

}  // namespace baton
