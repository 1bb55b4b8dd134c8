#include "gateway/cache_table.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace baton {

bool CacheTable::Put(CacheRecord record) {
  if (erased_.contains(record.id)) return false;
  std::string id = record.id;
  records_.insert_or_assign(std::move(id), std::move(record));
  return true;
}

Result<CacheRecord> CacheTable::Find(const std::string& id, std::string_view tenant, double now) const {
  const auto found = records_.find(id);
  if (found == records_.end() || BaseTenant(found->second.tenant) != tenant) {
    return NotFoundError("there is no cache '{}'; it was never made here, was deleted or has expired", id.substr(0, 64));
  }
  if (found->second.Expired(now)) return NotFoundError("the cache '{}' expired {:.0f} s ago", id, now - found->second.expires_unix_s);
  return found->second;
}

void CacheTable::Erase(const std::string& id) {
  const auto found = records_.find(id);
  if (found == records_.end()) return;
  if (erased_.size() < kMaxErased) erased_[id] = found->second.expires_unix_s;
  records_.erase(found);
}

std::vector<CacheRecord> CacheTable::List(std::string_view tenant, double now) const {
  std::vector<CacheRecord> out;
  for (const auto& [id, record] : records_) {
    if (record.tenant == tenant && !record.Expired(now)) out.push_back(record);
  }
  std::sort(out.begin(), out.end(), [](const CacheRecord& a, const CacheRecord& b) { return std::tie(a.created_unix_s, a.id) < std::tie(b.created_unix_s, b.id); });
  return out;
}

Status CacheTable::CheckCount(std::string_view tenant, double now) const {
  const auto count = std::count_if(records_.begin(), records_.end(), [&](const auto& entry) {
    return BaseTenant(entry.second.tenant) == tenant && !entry.second.Expired(now);
  });
  if (static_cast<size_t>(count) < max_per_tenant_) return OkStatus();
  return ExhaustedError("this tenant has {} cache handles, which is the most it may; delete some or wait until they expire", count);
}

void CacheTable::Sweep(double now) {
  std::erase_if(records_, [now](const auto& entry) { return entry.second.Expired(now - kRememberS); });
  std::erase_if(erased_, [now](const auto& entry) { return entry.second != 0 && entry.second <= now; });
}

}  // namespace baton
