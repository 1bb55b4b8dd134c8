// What the gateway needs from the rest of the program: a way to generate, and what to show. The cluster, the one-process
// server and the tests' fake implement it; the gateway never knows which it talks to.
#pragma once

#include <kj/async.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/cache_record.h"
#include "base/generation.h"
#include "base/status.h"

namespace baton {

/// The served model as `/v1/models` and `/health` show it.
struct ModelCard {
  std::string id;                 // the name clients use
  uint64_t created_unix_s = 0;
  uint32_t vocab = 0, max_positions = 0, block_tokens = 64;
  std::string numerics, kv_dtype, fingerprint_hex;
};

/// Receives one generation. All calls come on the gateway's loop thread, in order, the first perhaps from inside Generate;
/// one OnEnd or OnError comes last, and nothing after the handle was destroyed. No sink destroys a handle from inside a call.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  /// Called before the first token with what is known by then: the route (`x-baton-route`) and the token counts, which are
  /// all that an answer ended by a stop string (the gateway cancels it) will ever know. May come again after a move.
  virtual void OnRoute(const RequestStats& stats) = 0;
  virtual void OnToken(const TokenEvent& event) = 0;
  virtual void OnEnd(FinishReason reason, const RequestStats& stats) = 0;
  /// The generation failed for good: kExhausted (429 or 503: see retry_after_s), kUnavailable (503), kInvalid (400),
  /// kDeadline (503); others are 500. retry_after_s <= 0: not known.
  virtual void OnError(const Status& status, double retry_after_s) = 0;
};

/// One running generation. Destroying it cancels: workers free its blocks within 100 ms.
class GenerationHandle {
 public:
  virtual ~GenerationHandle() = default;
};

/// What holding the blocks of a cache handle may cost.
enum class HoldMode {
  kAsIs,      // hold what the store has
  kFresh,     // all of them; they were just computed by a request with `keep`, and may be on their way to the store
  kComplete,  // all of them: what is missing is computed
};

/// Thread: the gateway's loop.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual const ModelCard& card() const = 0;
  /// Starts a generation; `sink` must outlive the handle.
  virtual std::unique_ptr<GenerationHandle> Generate(GenerateRequest request, GenerationSink& sink) = 0;
  /// Ok when requests can be served; otherwise why not (loading, draining, no worker of a role).
  virtual Status Health() = 0;
  /// JSON text: workers, roles, loads, index, the last decisions. kUnavailable where nobody can say.
  virtual kj::Promise<Result<std::string>> ClusterJson() = 0;
  /// JSON text: the route a prompt would take and every term in seconds, without taking it. kUnavailable as above.
  virtual kj::Promise<Result<std::string>> ExplainRoute(std::vector<TokenId> prompt, uint32_t max_tokens, std::string tenant) = 0;
  /// JSON text: the decision of one request, predicted and actual. kNotFound where it is not remembered, kUnavailable as above.
  virtual kj::Promise<Result<std::string>> ExplainRequest(RequestId request) = 0;
  /// Prometheus text of the whole cluster as far as this process knows it.
  virtual kj::Promise<std::string> MetricsText() = 0;
  /// Stops giving the worker new requests; kNotFound for an unknown id.
  virtual kj::Promise<Status> Drain(WorkerId worker) = 0;

  /// Keeps the full blocks of the record's tokens in the store until it expires, in place of a record of the same id. But for
  /// kAsIs all or nothing. Errors: kInvalid (more than could ever be held), kExhausted (no room beside what is held now),
  /// kUnavailable (no store, or no worker to compute with).
  virtual kj::Promise<Result<HeldBlocks>> HoldCache(CacheRecord record, HoldMode mode) = 0;
  /// Lets the blocks go. kUnavailable: a store that may hold them did not answer.
  virtual kj::Promise<Status> ReleaseCache(std::string id) = 0;
  /// The records that stores keep of a tenant (its salts included), or the one of that id; of stores that answer.
  virtual kj::Promise<std::vector<CacheRecord>> StoredCaches(std::string tenant, std::string id) = 0;
  /// JSON text: for each full block of the tokens where it is, or why it is not.
  virtual kj::Promise<Result<std::string>> ExplainCache(std::vector<TokenId> tokens, std::string tenant) = 0;
  /// Gives the worker another role ("prefill", "decode", "prefill+decode"); what runs there goes on. kNotFound, kInvalid,
  /// kExhausted (too soon after the last time).
  virtual kj::Promise<Status> SetRole(WorkerId worker, std::string role) = 0;
};

}  // namespace baton
