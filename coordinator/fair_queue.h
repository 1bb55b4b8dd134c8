// Requests that wait for the cluster, and whose turn it is: higher priority first; among tenants deficit round robin on tokens,
// so that each gets the same (or by its weight) however many requests it sends; within a tenant in the order they came. A
// tenant that had nothing here for a whole round goes next, once: who asks seldom hardly waits.
//
// A tenant is charged what its requests are expected to take, and settled with what they took: who asks for 4,000 tokens and
// writes 10 gets the rest back, who was underrated pays later.
//
// Thread: one.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/clock.h"
#include "base/ids.h"

namespace baton {

struct FairQueueConfig {
  uint64_t quantum_tokens = 2048;         // of a tenant in each round; a usual request, so that one who comes anew need not wait for two
  double most_debt_quanta = 64;           // what settling can make a tenant pay or keep at most
  std::map<std::string, double> weights;  // by tenant; others have 1
};

struct WaitingRequest {
  RequestId request;
  std::string tenant;
  int32_t priority = 0;
  uint64_t tokens = 0;
  Instant since;
};

class FairQueue {
 public:
  explicit FairQueue(FairQueueConfig config) : config_(std::move(config)) {}

  /// False where the request waits already.
  bool Push(WaitingRequest request);
  /// Whose turn it is, or null. The same until something changes.
  const WaitingRequest* Front();
  /// Front() goes, and its tenant is charged.
  void Pop();
  /// It gave up. False for one that does not wait.
  bool Remove(RequestId request);
  /// A request of the tenant was charged `charged` tokens and took `took`.
  void Settle(const std::string& tenant, uint64_t charged, uint64_t took);

  bool Waits(RequestId request) const { return band_of_.count(request) != 0; }
  size_t size() const { return band_of_.size(); }
  uint64_t tokens() const { return tokens_; }
  /// Tokens that would be served before a request of this tenant and priority that came now, by the rule above.
  double TokensBefore(const std::string& tenant, int32_t priority) const;

 private:
  struct Tenant {
    std::deque<WaitingRequest> requests;
    uint64_t tokens = 0;
    double deficit = 0;
    bool visited = false;  // got its quantum in this visit
  };
  struct Band {  // of one priority
    std::map<std::string, Tenant> tenants;  // those that have requests, or had when it was their turn last
    std::deque<std::string> ring;           // their names, the one in turn first
    size_t requests = 0;
  };
  double WeightOf(const std::string& tenant) const;
  double QuantumOf(const std::string& tenant) const { return static_cast<double>(config_.quantum_tokens) * WeightOf(tenant); }
  void SkipRounds(Band& band);
  void EndVisitIfOver(Band& band);
  void Leave(Band& band);
  void CountOut(std::map<int32_t, Band, std::greater<>>::iterator band);

  FairQueueConfig config_;
  std::map<int32_t, Band, std::greater<>> bands_;
  std::unordered_map<RequestId, std::pair<int32_t, std::string>> band_of_;  // and tenant
  std::map<std::string, double> credit_;  // of tenants without requests: what their deficit begins with
  uint64_t tokens_ = 0;
};

}  // namespace baton
