// What every connection and answer of one gateway shares.
#pragma once

#include <kj/compat/http.h>
#include <kj/timer.h>

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/hash.h"
#include "base/random.h"
#include "gateway/api_error.h"
#include "gateway/backend.h"
#include "gateway/caches.h"
#include "gateway/gateway.h"
#include "gateway/gateway_metrics.h"
#include "gateway/text_codec.h"

namespace baton {

class Answer;

/// The HTTP headers that the gateway reads or writes.
struct GatewayHeaders {
  GatewayHeaders();

  kj::HttpHeaderTable::Builder builder;
  kj::HttpHeaderId authorization, x_api_key, x_request_id, x_baton_route, retry_after, allow, expect, origin, cache_control, www_authenticate,
      content_security_policy;
  kj::Own<kj::HttpHeaderTable> table;
};

/// What is remembered of an ended answer for `GET /debug/requests/ID`.
struct AnswerRecord {
  std::string id, request_id, tenant, endpoint, route, outcome;
  double started_unix_s = 0, first_token_s = 0, total_s = 0;
  uint64_t prompt_tokens = 0, cached_tokens = 0, cache_write_tokens = 0, completion_tokens = 0;
};

/// Thread: the gateway's loop.
struct GatewayState {
  GatewayState(kj::Timer& timer, const Clock& clock, Backend& backend, const TextCodec& codec, GatewayConfig config);

  kj::Timer& timer;
  const Clock& clock;
  Backend& backend;
  const TextCodec& codec;
  const GatewayConfig config;
  std::map<Digest256, std::string> tenants;  // by the SHA-256 of their keys
  Random random;  // request ids and default seeds
  GatewayHeaders headers;
  GatewayMetrics metrics;
  Caches caches;
  bool draining = false;
  bool close_next_answer = false;  // read by kj-http when the response being begun is to end its connection
  std::set<Answer*> answers;       // those running
  kj::Maybe<kj::Own<kj::PromiseFulfiller<void>>> no_answers;  // fulfilled when a drained gateway's last answer ends
  std::deque<AnswerRecord> records;                           // newest last, at most kMaxRecords
  static constexpr size_t kMaxRecords = 1024;

  /// Ok when a new answer may start; else why not.
  Status Ready() const;
};

}  // namespace baton
