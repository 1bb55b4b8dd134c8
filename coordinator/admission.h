// Whether a request may enter now, waits for its turn, or is told when to come back.
//
// A worker computes prompts in the order they reach it, so what is sent to workers too early is out of reach of fairness:
// while the best worker still has more than `hold_above_s` of prompts to compute, requests wait here, in a FairQueue, and go
// when it is their turn and there is room. A request whose wait would be longer than the limit is refused at once, with the
// time after which it would not be, from the same rates; refused ones are told different times, so that they do not come back
// together. Who comes when it was told to is let in, however many new ones came meanwhile: it is known by what it asks.
//
// Thread: one.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/status.h"
#include "coordinator/fair_queue.h"

namespace baton {

struct AdmissionConfig {
  double max_wait_s = 30;         // longest wait before the prompt's computation begins
  double hold_above_s = 0;        // wait at the worker above which a request waits here; 0: nothing waits here
  uint32_t max_held = 1024;       // requests that wait here
  uint32_t max_in_flight = 4096;  // requests in the cluster
  uint32_t tenant_in_flight = 0;  // requests of one tenant; 0 = no limit
  double max_retry_s = 120;       // longest Retry-After
  FairQueueConfig fair;
};

struct AdmissionQuery {
  RequestId request;
  std::string tenant;
  int32_t priority = 0;   // higher ones go first
  uint64_t tokens = 0;    // to compute: of the prompt what is in no cache, and the expected answer
  double wait_s = 0;      // at the best candidate, before its prompt is computed
  double room_s = 0;      // the same at the idlest one
  double service_s = 0;   // of the prompt itself there
  uint32_t parallel = 1;  // workers that could compute it
  double answer_s = 0;    // expected time from the first token to the end
  uint64_t fingerprint = 0;  // of what is asked: the same when it is asked again; 0: not known
  bool crowded = false;   // the workers that would write the answer have no place for another
};

struct AdmissionAnswer {
  Status status;  // kExhausted: 429, with the limit and its value
  double retry_after_s = 0;
  bool held = false;  // neither: it waits here; ask again when it is its turn
  double held_s = 0;  // of an admitted one: how long it waited here
};

class Admission {
 public:
  explicit Admission(AdmissionConfig config) : config_(std::move(config)), queue_(config_.fair) {}

  /// Admits (and counts it as in flight until Finished), holds or refuses. A request that is in flight already is admitted as it is.
  AdmissionAnswer Admit(const AdmissionQuery& query, Instant now);
  /// Counted whatever the limits say: a moved stream after a restart of the coordinator.
  void Adopt(const AdmissionQuery& query, Instant now);
  /// Ended, however, after `tokens` were computed for it (0: as many as expected); unknown ids are ignored.
  void Finished(RequestId request, uint64_t tokens = 0);
  /// A held request is wanted no more.
  void Withdraw(RequestId request);
  /// Forgets requests older than `age_s` that never ended here (their gateway died).
  void Expire(Instant now, double age_s);

  /// Of the held ones, whose turn it is; 0 where none is held.
  RequestId Next();
  size_t held() const { return queue_.size(); }
  size_t in_flight() const { return requests_.size(); }
  uint64_t tokens_in_flight() const { return tokens_; }
  uint64_t refused() const { return refused_; }

 private:
  struct InFlight {
    std::string tenant;
    uint64_t tokens = 0;
    Instant since;
    double expected_s = 0;
    bool charged = false;  // it waited here
  };
  AdmissionAnswer AdmitInTurn(const AdmissionQuery& query, Instant now);
  /// Seconds until it would be this request's turn and its prompt's computation began, if it were held now.
  double ExpectedWait(const AdmissionQuery& query) const;
  /// Tokens that are let go a second while others wait: measured, at first taken from the query.
  double Rate(const AdmissionQuery& query) const;
  void CountLetGo(uint64_t tokens, Instant now);
  /// Told to come back after `wait_s`, or `gap_s` after the one refused before it.
  AdmissionAnswer Refuse(Status status, double wait_s, double gap_s, Instant now);
  void Promise(uint64_t fingerprint, double wait_s, Instant now);
  /// It was told to come by now, and not long ago.
  bool IsPromised(uint64_t fingerprint, Instant now) const;
  /// Until the first of `tenant` (empty: of all) should have ended.
  double NextEnd(const std::string& tenant, Instant now) const;

  AdmissionConfig config_;
  FairQueue queue_;
  std::map<RequestId, Instant> held_since_;
  std::map<RequestId, InFlight> requests_;
  std::map<std::string, uint32_t> tenants_;  // requests in flight
  uint64_t tokens_ = 0, refused_ = 0;
  Instant promised_{};  // the latest time a refused request was told
  struct Promised {
    Instant from, until;
  };
  std::map<uint64_t, Promised> promises_;  // by fingerprint
  // Of the last seconds in which others waited: what was let go, and when.
  std::deque<std::pair<Instant, uint64_t>> let_go_;
  uint64_t let_go_tokens_ = 0;
};

}  // namespace baton
