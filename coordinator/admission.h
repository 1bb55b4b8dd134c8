// Whether a request may enter. Nothing queues here: a request whose wait would be longer than the limit is told when to come
// back, computed from the same seconds that the router uses, and refused ones are told different times so that they do not
// come back at once.
//
// Thread: one.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/status.h"

namespace baton {

struct AdmissionConfig {
  double max_wait_s = 30;          // longest wait before the prompt's computation begins
  double fair_wait_s = 2;          // from this wait on a tenant may hold no more than its share of the tokens in flight
  uint32_t max_in_flight = 4096;   // requests in the cluster
  uint32_t tenant_in_flight = 0;   // requests of one tenant; 0 = no limit
  double max_retry_s = 120;        // longest Retry-After
};

struct AdmissionQuery {
  RequestId request;
  std::string tenant;
  int32_t priority = 0;       // above 0 passes the share rule, never the limits
  uint64_t tokens = 0;        // prompt and expected answer
  double wait_s = 0;          // of the best candidate, before its prompt is computed
  double service_s = 0;       // of the prompt itself there
  uint32_t parallel = 1;      // workers that could compute it
  double answer_s = 0;        // expected time from the first token to the end
};

struct AdmissionAnswer {
  Status status;  // kExhausted: 429, with the limit and its value
  double retry_after_s = 0;
};

class Admission {
 public:
  explicit Admission(AdmissionConfig config) : config_(config) {}

  /// Admits (and counts it as in flight until Finished) or refuses. A request that is in flight already is admitted as it is.
  AdmissionAnswer Admit(const AdmissionQuery& query, Instant now);
  /// Counted whatever the limits say: a moved stream after a restart of the coordinator.
  void Adopt(const AdmissionQuery& query, Instant now);
  /// Ended, however; unknown ids are ignored.
  void Finished(RequestId request);
  /// Forgets requests older than `age_s` that never ended here (their gateway died).
  void Expire(Instant now, double age_s);

  size_t in_flight() const { return requests_.size(); }
  uint64_t tokens_in_flight() const { return tokens_; }
  uint64_t refused() const { return refused_; }

 private:
  struct Tenant {
    uint32_t requests = 0;
    uint64_t tokens = 0;
  };
  struct InFlight {
    std::string tenant;
    uint64_t tokens = 0;
    Instant since;
    double expected_s = 0;
  };
  bool OverShare(const AdmissionQuery& query) const;
  /// Told to come back after `wait_s`, or `gap_s` after the one refused before it.
  AdmissionAnswer Refuse(Status status, double wait_s, double gap_s, Instant now);
  /// Until the first of `tenant` (empty: of all) should have ended.
  double NextEnd(const std::string& tenant, Instant now) const;

  AdmissionConfig config_;
  std::map<RequestId, InFlight> requests_;
  std::map<std::string, Tenant> tenants_;
  uint64_t tokens_ = 0, refused_ = 0;
  Instant promised_{};  // the latest time a refused request was told
};

}  // namespace baton
