#include "coordinator/fair_queue.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

namespace baton {

double FairQueue::WeightOf(const std::string& tenant) const {
  const auto found = config_.weights.find(tenant);
  return found == config_.weights.end() ? 1 : std::max(found->second, 1e-3);
}

bool FairQueue::Push(WaitingRequest request) {
  if (!band_of_.try_emplace(request.request, request.priority, request.tenant).second) return false;
  Band& band = bands_[request.priority];
  const auto [tenant, is_new] = band.tenants.try_emplace(request.tenant);
  ++band.requests;
  if (is_new) {
    EndVisitIfOver(band);
    band.ring.push_front(request.tenant);
    const auto credit = credit_.find(request.tenant);
    if (credit != credit_.end()) {
      tenant->second.deficit = credit->second;
      credit_.erase(credit);
    }
  }
  tenant->second.tokens += request.tokens;
  tokens_ += request.tokens;
  tenant->second.requests.push_back(std::move(request));
  return true;
}

const WaitingRequest* FairQueue::Front() {
  if (bands_.empty()) return nullptr;
  Band& band = bands_.begin()->second;
  for (size_t passed = 0;;) {
    if (passed >= band.ring.size()) SkipRounds(band), passed = 0;
    Tenant& tenant = band.tenants.at(band.ring.front());
    if (tenant.requests.empty()) {
      Leave(band);
      continue;
    }
    if (!std::exchange(tenant.visited, true)) tenant.deficit += QuantumOf(band.ring.front());
    if (tenant.deficit >= static_cast<double>(tenant.requests.front().tokens)) return &tenant.requests.front();
    tenant.visited = false;
    band.ring.push_back(std::move(band.ring.front()));
    band.ring.pop_front();
    ++passed;
  }
}

/// Whoever is in turn and cannot pay for more has had its turn: before another is put in front of it.
void FairQueue::EndVisitIfOver(Band& band) {
  if (band.ring.empty()) return;
  Tenant& tenant = band.tenants.at(band.ring.front());
  if (!tenant.visited || (!tenant.requests.empty() && tenant.deficit >= static_cast<double>(tenant.requests.front().tokens))) return;
  tenant.visited = false;
  band.ring.push_back(std::move(band.ring.front()));
  band.ring.pop_front();
}

/// Nobody can pay after a whole round: the rounds in which nobody will either are given at once.
void FairQueue::SkipRounds(Band& band) {
  double rounds = std::numeric_limits<double>::infinity();
  const auto needed = [this](const std::string& name, const Tenant& t) {
    return std::ceil((static_cast<double>(t.requests.front().tokens) - t.deficit) / QuantumOf(name));
  };
  for (const auto& [name, tenant] : band.tenants) {
    if (!tenant.requests.empty()) rounds = std::min(rounds, needed(name, tenant));
  }
  for (auto& [name, tenant] : band.tenants) {
    if (!tenant.requests.empty()) tenant.deficit += (rounds - 1) * QuantumOf(name);
  }
}

/// The tenant in turn, which sent nothing since its last turn, goes: it saves nothing up, but its debts stay.
void FairQueue::Leave(Band& band) {
  const std::string name = band.ring.front();
  const double debt = std::max(-band.tenants.at(name).deficit, 0.0);
  if (debt > 0) credit_[name] -= std::min(debt, config_.most_debt_quanta * QuantumOf(name));
  band.ring.pop_front();
  band.tenants.erase(name);
}

/// A request has gone. A band without any is forgotten, with the turns of those that had some.
void FairQueue::CountOut(std::map<int32_t, Band, std::greater<>>::iterator band) {
  if (--band->second.requests > 0) return;
  while (!band->second.ring.empty()) Leave(band->second);
  bands_.erase(band);
}

void FairQueue::Pop() {
  const WaitingRequest* front = Front();
  if (front == nullptr) return;
  const auto band = bands_.begin();
  Tenant& tenant = band->second.tenants.at(front->tenant);
  tenant.deficit -= static_cast<double>(front->tokens);
  tenant.tokens -= front->tokens;
  tokens_ -= front->tokens;
  band_of_.erase(front->request);
  tenant.requests.pop_front();
  CountOut(band);
}

bool FairQueue::Remove(RequestId request) {
  const auto where = band_of_.find(request);
  if (where == band_of_.end()) return false;
  const auto band = bands_.find(where->second.first);
  Tenant& tenant = band->second.tenants.at(where->second.second);
  const auto at = std::find_if(tenant.requests.begin(), tenant.requests.end(), [&](const WaitingRequest& r) { return r.request == request; });
  tenant.tokens -= at->tokens;
  tokens_ -= at->tokens;
  tenant.requests.erase(at);
  band_of_.erase(where);
  CountOut(band);
  return true;
}

void FairQueue::Settle(const std::string& tenant, uint64_t charged, uint64_t took) {
  const double limit = config_.most_debt_quanta * QuantumOf(tenant);
  const double difference = static_cast<double>(charged) - static_cast<double>(took);
  for (auto& [priority, band] : bands_) {
    const auto found = band.tenants.find(tenant);
    if (found == band.tenants.end()) continue;
    // What it got in its turns is not taken from it, however large: a huge request is reached by saving it up.
    double& deficit = found->second.deficit;
    deficit = std::clamp(deficit + difference, std::min(-limit, deficit), std::max(limit, deficit));
    return;
  }
  // Without a request in the queue a tenant saves nothing up, but pays its debts.
  double& credit = credit_[tenant];
  credit = std::clamp(credit + difference, -limit, 0.0);
  if (credit == 0) credit_.erase(tenant);
}

double FairQueue::TokensBefore(const std::string& tenant, int32_t priority) const {
  double before = 0;
  for (const auto& [band_priority, band] : bands_) {
    if (band_priority < priority) break;  // bands go downwards
    if (band_priority > priority) {
      for (const auto& [name, t] : band.tenants) before += static_cast<double>(t.tokens);
      continue;
    }
    const auto own = band.tenants.find(tenant);
    const double mine = own == band.tenants.end() ? 0 : static_cast<double>(own->second.tokens);
    before += mine;
    // While mine are served, each other tenant gets its share, but no more than it has.
    for (const auto& [name, t] : band.tenants) {
      if (name == tenant) continue;
      const double share = (mine + static_cast<double>(config_.quantum_tokens)) * WeightOf(name) / WeightOf(tenant);
      before += std::min(static_cast<double>(t.tokens), share);
    }
  }
  return before;
}

}  // namespace baton
