// The gateway's way into the cluster: asks the coordinator for a route, hands the request to the decode worker, and when
// that worker dies goes on with another one, so that the client sees a pause and never another token.
#pragma once

#include <kj/timer.h>

#include <memory>
#include <string>

#include "app/cache_holder.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/metrics_merge.h"
#include "gateway/backend.h"
#include "protocol/member_session.h"
#include "protocol/membership_view.h"
#include "protocol/peers.h"

namespace baton {

struct ClusterBackendConfig {
  std::string model_name;      // what clients call the model; empty: the workers' name for it
  std::string tenant_secret;   // key of the tenants' salts
  double give_up_after_s = 30; // without a coordinator, or once it has begun without a worker, a request waits this long
  double wait_for_workers_s = 3; // a new one without a worker; a coordinator that has just started hears of its workers within a second
};

/// The root of a tenant's key chains; an empty tenant has no salt.
BlockKey TenantRoot(const ModelIdentity& model, const std::string& secret, const std::string& tenant);

/// Thread: the loop's. What is passed by reference outlives it and its generations.
class ClusterBackend final : public Backend {
 public:
  ClusterBackend(ClusterBackendConfig config, kj::Timer& timer, const Clock& clock, Metrics& metrics, PeerTable& peers,
                 MemberSession& session, const MembershipView& members);
  ~ClusterBackend() noexcept override;

  /// Learns the model from the cluster; resolves once requests can be served. Until then Health says what is missing.
  kj::Promise<void> Ready();
  void SetDraining() { draining_ = true; }

  const ModelCard& card() const override { return card_; }
  std::unique_ptr<GenerationHandle> Generate(GenerateRequest request, GenerationSink& sink) override;
  Status Health() override;
  kj::Promise<Result<std::string>> ClusterJson() override;
  kj::Promise<Result<std::string>> ExplainRoute(std::vector<TokenId> prompt, uint32_t max_tokens, std::string tenant) override;
  kj::Promise<Result<std::string>> ExplainRequest(RequestId request) override;
  kj::Promise<std::string> MetricsText() override;
  kj::Promise<Status> Drain(WorkerId worker) override;
  kj::Promise<Result<HeldBlocks>> HoldCache(CacheRecord record, HoldMode mode) override;
  kj::Promise<Status> ReleaseCache(std::string id) override { return caches_.Release(std::move(id)); }
  kj::Promise<std::vector<CacheRecord>> StoredCaches(std::string tenant, std::string id) override { return caches_.Stored(std::move(tenant), std::move(id)); }
  kj::Promise<Result<std::string>> ExplainCache(std::vector<TokenId> tokens, std::string tenant) override;
  kj::Promise<Status> SetRole(WorkerId worker, std::string role) override;

 private:
  class Generation;
  friend class Generation;
  struct Meters;
  kj::Promise<void> LearnModel();
  template <typename T, typename Ask>
  kj::Promise<T> AskCoordinator(Ask ask);
  template <typename T>
  kj::Promise<T> CoordinatorLost();
  kj::Promise<MetricsPage> MetricsOf(const MemberInfo& member);
  BlockKey RootOf(const std::string& tenant) const { return TenantRoot(identity_, config_.tenant_secret, tenant); }

  const ClusterBackendConfig config_;
  kj::Timer& timer_;
  const Clock& clock_;
  Metrics& metrics_;
  PeerTable& peers_;
  MemberSession& session_;
  const MembershipView& members_;
  CacheHolder caches_;
  std::unique_ptr<Meters> meters_;
  ModelIdentity identity_;
  ModelCard card_;
  Status readiness_;
  bool draining_ = false;
};

}  // namespace baton
