// The cache handles a gateway knows: whose, of which tokens, until when. Plain books, without a backend: caches.h acts on them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/cache_record.h"
#include "base/status.h"

namespace baton {

/// Thread: one. Times are seconds since 1970. Of a handle that is another tenant's nothing is told that differs from a handle
/// which does not exist.
class CacheTable {
 public:
  explicit CacheTable(size_t max_per_tenant) : max_per_tenant_(max_per_tenant) {}

  /// Takes a record in, in place of one of the same id. Not one that was erased here: false.
  bool Put(CacheRecord record);
  /// kNotFound: unknown, another tenant's, or expired, which is said for kRememberS. `tenant` is the owner's, without a salt's mark.
  Result<CacheRecord> Find(const std::string& id, std::string_view tenant, double now) const;
  /// Whether the id was erased here and its record may still be at a store.
  bool Erased(const std::string& id) const { return erased_.contains(id); }
  /// Forgets a handle. Where stores may still have it, its id is remembered until it would have expired.
  void Erase(const std::string& id);
  /// The tenant's handles, oldest first; those made with a cache_salt are known only to who has their id.
  std::vector<CacheRecord> List(std::string_view tenant, double now) const;
  /// kExhausted when the tenant has as many as it may.
  Status CheckCount(std::string_view tenant, double now) const;
  /// Forgets what expired kRememberS ago.
  void Sweep(double now);
  size_t size() const { return records_.size(); }

  static constexpr double kRememberS = 600;
  static constexpr size_t kMaxErased = 65536;

 private:
  const size_t max_per_tenant_;
  std::map<std::string, CacheRecord> records_;
  std::map<std::string, double> erased_;  // id to expiry, 0: never
};

}  // namespace baton
