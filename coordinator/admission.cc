#include "coordinator/admission.h"

#include <algorithm>
#include <utility>

namespace baton {
namespace {

constexpr double kShortestRetryS = 0.05;
constexpr double kRateWindowS = 10;
constexpr size_t kFewestForRate = 4;   // let go in the window; fewer say nothing
constexpr size_t kMostPromises = 4096;
constexpr double kEarly = 0.9, kLate = 1.5, kGrace = 2;  // of the time that was told: when a promise begins and, with some seconds, ends
constexpr double kLongestHeld = 2;     // of max_wait_s: the expectation may be wrong by so much

std::string TenantText(const std::string& tenant) { return tenant.empty() ? "this server" : "tenant '" + tenant + "'"; }

}  // namespace

double Admission::NextEnd(const std::string& tenant, Instant now) const {
  double soonest = -1;
  for (const auto& [id, request] : requests_) {
    if (!tenant.empty() && request.tenant != tenant) continue;
    const double left = std::max(0.0, request.expected_s - ToSeconds(now - request.since));
    if (soonest < 0 || left < soonest) soonest = left;
  }
  return std::max(0.0, soonest);
}

AdmissionAnswer Admission::Refuse(Status status, double wait_s, double gap_s, Instant now) {
  ++refused_;
  const Instant earliest = now + FromSeconds(std::clamp(wait_s, kShortestRetryS, config_.max_retry_s));
  promised_ = std::min(std::max(earliest, promised_ + FromSeconds(std::min(gap_s, config_.max_retry_s))), now + FromSeconds(config_.max_retry_s));
  return {std::move(status), ToSeconds(promised_ - now)};
}

AdmissionAnswer Admission::Admit(const AdmissionQuery& query, Instant now) {
  if (requests_.count(query.request) != 0) return {};
  const double turnover_s = (query.service_s + query.answer_s) / static_cast<double>(std::max<size_t>(1, requests_.size()));
  if (requests_.size() >= config_.max_in_flight) {
    Withdraw(query.request);
    return Refuse(ExhaustedError("{} requests are in flight, the limit; try again later", requests_.size()), NextEnd("", now), turnover_s, now);
  }
  const auto tenant = tenants_.find(query.tenant);
  if (config_.tenant_in_flight > 0 && tenant != tenants_.end() && tenant->second >= config_.tenant_in_flight) {
    Withdraw(query.request);
    return Refuse(ExhaustedError("{} has {} requests in flight, its limit; try again later", TenantText(query.tenant), tenant->second),
                  NextEnd(query.tenant, now), turnover_s, now);
  }
  if (config_.hold_above_s > 0) return AdmitInTurn(query, now);
  if (query.wait_s > config_.max_wait_s) {
    return Refuse(ExhaustedError("the prompt would wait {:.1f} s, longer than the limit of {:.1f} s; try again later", query.wait_s, config_.max_wait_s),
                  query.wait_s - config_.max_wait_s, query.service_s / std::max(1u, query.parallel), now);
  }
  Adopt(query, now);
  return {};
}

AdmissionAnswer Admission::AdmitInTurn(const AdmissionQuery& query, Instant now) {
  const bool fits = query.room_s <= config_.hold_above_s && !query.crowded;
  const double gap_s = static_cast<double>(query.tokens) / Rate(query);
  if (!queue_.Waits(query.request)) {
    if (fits && queue_.size() == 0) {
      Adopt(query, now);
      return {};
    }
    const double wait_s = ExpectedWait(query);
    if (wait_s > config_.max_wait_s && !IsPromised(query.fingerprint, now)) {
      AdmissionAnswer refused = Refuse(
          ExhaustedError("the prompt would wait {:.1f} s, longer than the limit of {:.1f} s; try again later", wait_s, config_.max_wait_s),
          wait_s - config_.max_wait_s, gap_s, now);
      Promise(query.fingerprint, refused.retry_after_s, now);
      return refused;
    }
    if (queue_.size() >= config_.max_held) {
      return Refuse(ExhaustedError("{} requests wait, the limit; try again later", queue_.size()), gap_s, gap_s, now);
    }
    promises_.erase(query.fingerprint);
    queue_.Push({query.request, query.tenant, query.priority, query.tokens, now});
    if (queue_.size() == 1) let_go_.clear(), let_go_tokens_ = 0, CountLetGo(0, now);  // a new time of waiting begins
    held_since_[query.request] = now;
  } else if (ToSeconds(now - held_since_.at(query.request)) > kLongestHeld * config_.max_wait_s) {
    Withdraw(query.request);
    return Refuse(ExhaustedError("the request waited {:.1f} s for its turn; try again later", kLongestHeld * config_.max_wait_s), gap_s, gap_s, now);
  }
  if (!fits || queue_.Front()->request != query.request) return {.held = true};
  const double held_s = ToSeconds(now - held_since_.at(query.request));
  CountLetGo(queue_.Front()->tokens, now);
  queue_.Pop();
  Adopt(query, now);
  requests_.at(query.request).charged = true;
  return {.held_s = held_s};
}

void Admission::Promise(uint64_t fingerprint, double wait_s, Instant now) {
  if (fingerprint == 0 || promises_.size() >= kMostPromises) return;
  promises_.try_emplace(fingerprint, Promised{now + FromSeconds(kEarly * wait_s), now + FromSeconds(kLate * wait_s + kGrace)});
}

bool Admission::IsPromised(uint64_t fingerprint, Instant now) const {
  const auto found = promises_.find(fingerprint);
  return found != promises_.end() && now >= found->second.from && now <= found->second.until;
}

void Admission::Withdraw(RequestId request) {
  queue_.Remove(request);
  held_since_.erase(request);
}

double Admission::Rate(const AdmissionQuery& query) const {
  if (let_go_.size() > kFewestForRate) {
    const double seconds = ToSeconds(let_go_.back().first - let_go_.front().first);
    if (seconds > 0 && let_go_tokens_ > 0) return static_cast<double>(let_go_tokens_) / seconds;
  }
  const double alone_s = query.service_s > 0 ? query.service_s : 1e-3;
  return std::max(1.0, static_cast<double>(query.tokens)) * std::max(1u, query.parallel) / alone_s;
}

void Admission::CountLetGo(uint64_t tokens, Instant now) {
  let_go_.emplace_back(now, tokens);
  let_go_tokens_ += tokens;
  while (let_go_.size() > kFewestForRate + 1 && ToSeconds(now - let_go_.front().first) > kRateWindowS) {
    let_go_.pop_front();
    let_go_tokens_ -= let_go_.front().second;  // the first one only says when the time begins
    let_go_.front().second = 0;
  }
}

double Admission::ExpectedWait(const AdmissionQuery& query) const {
  return query.wait_s + queue_.TokensBefore(query.tenant, query.priority) / Rate(query);
}

RequestId Admission::Next() {
  const WaitingRequest* front = queue_.Front();
  return front == nullptr ? RequestId() : front->request;
}

void Admission::Adopt(const AdmissionQuery& query, Instant now) {
  const double expected_s = query.wait_s + query.service_s + query.answer_s;
  if (!requests_.try_emplace(query.request, InFlight{query.tenant, query.tokens, now, expected_s}).second) return;
  Withdraw(query.request);
  ++tenants_[query.tenant];
  tokens_ += query.tokens;
}

void Admission::Finished(RequestId request, uint64_t tokens) {
  Withdraw(request);
  const auto it = requests_.find(request);
  if (it == requests_.end()) return;
  const auto tenant = tenants_.find(it->second.tenant);
  tokens_ -= it->second.tokens;
  if (it->second.charged && tokens > 0) queue_.Settle(it->second.tenant, it->second.tokens, tokens);
  if (--tenant->second == 0) tenants_.erase(tenant);
  requests_.erase(it);
}

void Admission::Expire(Instant now, double age_s) {
  std::vector<RequestId> old;
  for (const auto& [id, request] : requests_) {
    if (ToSeconds(now - request.since) > age_s) old.push_back(id);
  }
  for (const auto& [id, since] : held_since_) {
    if (ToSeconds(now - since) > age_s) old.push_back(id);
  }
  for (const RequestId id : old) Finished(id);
  std::erase_if(promises_, [now](const auto& promise) { return promise.second.until < now; });
}

}  // namespace baton
