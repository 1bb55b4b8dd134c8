// A cache handle as a plain value: whose it is, of which tokens, until when. What the gateway makes, the wire carries and the
// store keeps beside the blocks that it holds for it.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/ids.h"

namespace baton {

struct CacheRecord {
  std::string id;      // "cache_" and 32 hex digits
  std::string tenant;  // whose key chain the blocks are in: a tenant's name, with the mark of a cache_salt behind a '/'
  std::vector<TokenId> tokens;
  double created_unix_s = 0;
  double expires_unix_s = 0;  // 0: pinned, never

  bool pinned() const { return expires_unix_s == 0; }
  bool Expired(double now_unix_s) const { return !pinned() && now_unix_s >= expires_unix_s; }
  friend bool operator==(const CacheRecord&, const CacheRecord&) = default;
};

/// Whether `id` is a handle's id as this program makes them; no other may become a file's name.
inline bool IsCacheId(std::string_view id) {
  constexpr std::string_view kPrefix = "cache_";
  return id.size() == kPrefix.size() + 32 && id.substr(0, kPrefix.size()) == kPrefix &&
         std::all_of(id.begin() + kPrefix.size(), id.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

/// The tenant without the mark of a cache_salt: who owns and pays.
inline std::string_view BaseTenant(std::string_view tenant) { return tenant.substr(0, tenant.find('/')); }

/// The tenant whose key chain a request's blocks are in: a client's salt only chooses among the tenant's chains.
inline std::string SaltedTenant(const std::string& tenant, std::string_view cache_salt) {
  return cache_salt.empty() ? tenant : tenant + "/" + HexEncode(Sha256(AsBytes(cache_salt))).substr(0, 16);
}

/// What a store has of a handle's blocks.
struct HeldBlocks {
  uint32_t held = 0;              // leading ones
  uint32_t memory = 0, disk = 0;  // blocks in each tier; one may be in both
  uint64_t bytes = 0;             // of the blocks that are in any
  friend bool operator==(const HeldBlocks&, const HeldBlocks&) = default;
};

}  // namespace baton
