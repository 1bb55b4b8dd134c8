// What can be done with cache handles: the table of them, and the backend that holds their blocks. docs/caches.md draws it.
#pragma once

#include <kj/async.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "gateway/backend.h"
#include "gateway/cache_table.h"
#include "protocol/loop.h"

namespace baton {

/// A handle and what the store has of it now.
struct CacheHandle {
  CacheRecord record;
  HeldBlocks blocks;
  uint32_t full_blocks = 0;  // of its tokens: what a request that names it finds computed while all are held
};

/// Thread: the gateway's loop. `tenant` is the exchange's, without a salt's mark; what is another's is kNotFound. Errors of
/// holding are the backend's. Promises must not outlive the object.
class Caches {
 public:
  Caches(Backend& backend, const Clock& clock, Random& random, size_t max_per_tenant);

  using Made = kj::Promise<Result<CacheHandle>>;
  /// Holds the blocks of `tokens` under a new id; `tenant` here with its salt's mark. `expires_unix_s` 0: never.
  Made Create(std::string tenant, std::vector<TokenId> tokens, double expires_unix_s, HoldMode mode);
  /// Asks the stores for an id that is not known here, as after a restart.
  kj::Promise<Result<CacheRecord>> Find(std::string id, std::string tenant);
  Made Get(std::string id, std::string tenant);
  kj::Promise<std::vector<CacheHandle>> List(std::string tenant);
  /// Puts what `edit` makes of a record in its place; id, tenant and creation stay. kAborted while another change is under way.
  using Edit = std::function<Result<CacheRecord>(CacheRecord)>;
  Made Change(std::string id, std::string tenant, Edit edit);
  /// A new handle made of what `edit` makes of another's record.
  Made Fork(std::string id, std::string tenant, Edit edit);
  kj::Promise<Status> Delete(std::string id, std::string tenant);
  /// A request has used the handle: what a store had lost of it was computed again and is held again, in the background.
  void Used(const CacheRecord& record);

  double now() const { return clock_.UnixSeconds(); }

 private:
  CacheHandle Describe(CacheRecord record, const HeldBlocks& blocks) const;
  kj::Promise<CacheHandle> Look(CacheRecord record);
  void Learn(std::vector<CacheRecord> records);
  void LetGo(const std::string& id);

  Backend& backend_;
  const Clock& clock_;
  Random& random_;
  CacheTable table_;
  std::set<std::string> changing_, healing_;
  Background tasks_{"cache handles"};
};

}  // namespace baton
