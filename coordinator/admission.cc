#include "coordinator/admission.h"

#include <algorithm>
#include <utility>

namespace baton {
namespace {

constexpr double kShortestRetryS = 0.05;

std::string TenantText(const std::string& tenant) { return tenant.empty() ? "this server" : "tenant '" + tenant + "'"; }

}  // namespace

bool Admission::OverShare(const AdmissionQuery& query) const {
  const auto tenant = tenants_.find(query.tenant);
  if (tenant == tenants_.end()) return false;  // it has nothing in flight
  const double share = static_cast<double>(tokens_) / static_cast<double>(tenants_.size());
  return tenants_.size() > 1 && static_cast<double>(tenant->second.tokens) >= share;
}

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
    return Refuse(ExhaustedError("{} requests are in flight, the limit; try again later", requests_.size()), NextEnd("", now), turnover_s, now);
  }
  const auto tenant = tenants_.find(query.tenant);
  if (config_.tenant_in_flight > 0 && tenant != tenants_.end() && tenant->second.requests >= config_.tenant_in_flight) {
    return Refuse(ExhaustedError("{} has {} requests in flight, its limit; try again later", TenantText(query.tenant), tenant->second.requests),
                  NextEnd(query.tenant, now), turnover_s, now);
  }
  const double gap_s = query.service_s / std::max(1u, query.parallel);
  if (query.wait_s > config_.max_wait_s) {
    return Refuse(ExhaustedError("the prompt would wait {:.1f} s, longer than the limit of {:.1f} s; try again later", query.wait_s, config_.max_wait_s),
                  query.wait_s - config_.max_wait_s, gap_s, now);
  }
  if (query.priority <= 0 && query.wait_s > config_.fair_wait_s && OverShare(query)) {
    return Refuse(ExhaustedError("{} holds its share of a busy cluster ({} tokens in flight); try again later",
                                 TenantText(query.tenant), tenant->second.tokens),
                  query.wait_s - config_.fair_wait_s, gap_s, now);
  }
  Adopt(query, now);
  return {};
}

void Admission::Adopt(const AdmissionQuery& query, Instant now) {
  const double expected_s = query.wait_s + query.service_s + query.answer_s;
  if (!requests_.try_emplace(query.request, InFlight{query.tenant, query.tokens, now, expected_s}).second) return;
  Tenant& tenant = tenants_[query.tenant];
  ++tenant.requests;
  tenant.tokens += query.tokens;
  tokens_ += query.tokens;
}

void Admission::Finished(RequestId request) {
  const auto it = requests_.find(request);
  if (it == requests_.end()) return;
  const auto tenant = tenants_.find(it->second.tenant);
  tokens_ -= it->second.tokens;
  tenant->second.tokens -= it->second.tokens;
  if (--tenant->second.requests == 0) tenants_.erase(tenant);
  requests_.erase(it);
}

void Admission::Expire(Instant now, double age_s) {
  std::vector<RequestId> old;
  for (const auto& [id, request] : requests_) {
    if (ToSeconds(now - request.since) > age_s) old.push_back(id);
  }
  for (const RequestId id : old) Finished(id);
}

}  // namespace baton
