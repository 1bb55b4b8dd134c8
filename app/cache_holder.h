// How the blocks of a cache handle come to stay in the stores: held where they are, waited for while they are on their way,
// computed where they are missing.
#pragma once

#include <kj/timer.h>

#include <memory>
#include <string>
#include <vector>

#include "base/block_key.h"
#include "base/clock.h"
#include "base/random.h"
#include "gateway/backend.h"
#include "protocol/membership_view.h"
#include "protocol/peers.h"

namespace baton {

/// Thread: the loop's. What is passed by reference outlives it and its promises. Results are as Backend's methods say.
class CacheHolder {
 public:
  CacheHolder(Backend& backend, kj::Timer& timer, const Clock& clock, PeerTable& peers, const MembershipView& members)
      : backend_(backend), timer_(timer), clock_(clock), peers_(peers), members_(members), request_ids_(EntropySeed()) {}

  /// `root`: of the record's tenant.
  kj::Promise<Result<HeldBlocks>> Hold(CacheRecord record, const BlockKey& root, HoldMode mode);
  kj::Promise<Status> Release(std::string id);
  kj::Promise<std::vector<CacheRecord>> Stored(std::string tenant, std::string id);
  kj::Promise<Result<std::string>> Explain(std::vector<TokenId> tokens, const BlockKey& root);

 private:
  struct Holding;
  kj::Promise<Result<HeldBlocks>> Step(std::shared_ptr<Holding> holding);
  kj::Promise<Result<HeldBlocks>> Ask(const Holding& holding);
  kj::Promise<Status> Compute(const CacheRecord& record);
  kj::Promise<Status> ReleaseAt(const MemberInfo& store, const std::string& id);
  kj::Promise<std::vector<CacheRecord>> StoredAt(PeerAddress store, std::string tenant, std::string id, std::string after);
  BlockKey First(const std::vector<BlockKey>& keys, const BlockKey& root, const std::vector<TokenId>& tokens) const;

  Backend& backend_;
  kj::Timer& timer_;
  const Clock& clock_;
  PeerTable& peers_;
  const MembershipView& members_;
  Random request_ids_;
};

}  // namespace baton
