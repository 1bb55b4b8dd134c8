#include "kvstore/hold_table.h"

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <unordered_set>
#include <utility>

#include "base/log.h"
#include "kvstore/file_layer.h"

namespace baton {
namespace {

namespace fs = std::filesystem;

constexpr double kForeverS = 10 * 365 * 86400.0;  // of a pin in the store: longer than a process lives

/// The keys that are named once or more, each once.
std::vector<BlockKey> Distinct(std::span<const BlockKey> keys) {
  std::vector<BlockKey> out;
  std::unordered_set<BlockKey> seen;
  for (const BlockKey& key : keys) {
    if (seen.insert(key).second) out.push_back(key);
  }
  return out;
}

}  // namespace

HoldTable::HoldTable(BlockStore& store, const Clock& clock, HoldLimits limits) : store_(store), clock_(clock), limits_(std::move(limits)) {}

Status HoldTable::Load() {
  if (limits_.folder.empty()) return OkStatus();
  std::lock_guard lock(mutex_);
  std::error_code error, ignored;
  fs::create_directories(limits_.folder, error);
  for (const auto& file : fs::directory_iterator(limits_.folder, error)) {
    if (!IsCacheId(file.path().filename().string())) {  // a half-written one
      if (file.path().extension() == ".new") fs::remove(file.path(), ignored);
      continue;
    }
    auto entry = ReadFile(file.path().string());
    if (!entry.ok()) {
      LOG_WARN("store: dropped the record of a cache handle: {}", entry.status().message());
      fs::remove(file.path(), ignored);
      continue;
    }
    const Status pinned = PinAll(entry->record, entry->keys);
    if (!pinned.ok()) LOG_WARN("store: handle {} is not wholly held any more: {}", entry->record.id, pinned.message());
    Count(*entry);
    const std::string id = entry->record.id;
    entries_[id] = std::move(*entry);
  }
  if (error) return UnavailableError("cannot read {}: {}", limits_.folder, error.message());
  ExpireNow();
  return OkStatus();
}

Status HoldTable::Check(const CacheRecord& record, std::span<const BlockKey> keys) const {
  if (!IsCacheId(record.id)) return InvalidError("'{}' is not the id of a cache handle", record.id);
  if (!std::isfinite(record.expires_unix_s) || !std::isfinite(record.created_unix_s)) return InvalidError("{}: its times are no numbers", record.id);
  if (record.Expired(clock_.UnixSeconds())) return InvalidError("{} has expired", record.id);
  const uint64_t bytes = keys.size() * limits_.block_bytes, most = store_.max_pinned_bytes();
  if (limits_.tenant_bytes > 0 && bytes > limits_.tenant_bytes) {
    return InvalidError("{} blocks of {} bytes are {} bytes, more than one tenant may hold ({}, store.tenant_hold_bytes)", keys.size(), limits_.block_bytes,
                        bytes, limits_.tenant_bytes);
  }
  if (bytes > most) {
    return InvalidError("{} blocks of {} bytes are {} bytes, more than this store may hold for handles ({}: half of store.disk_bytes or store.memory_bytes)",
                        keys.size(), limits_.block_bytes, bytes, most);
  }
  return OkStatus();
}

/// Whether the tenant may hold `keys` beside what it holds, less what a record of the same id gives free.
Status HoldTable::CheckRoom(const CacheRecord& record, std::span<const BlockKey> keys) {
  const auto former = entries_.find(record.id);
  if (former == entries_.end() && entries_.size() >= limits_.max_records) {
    return ExhaustedError("this store keeps {} cache handles and no more; delete some or wait until they expire", entries_.size());
  }
  if (limits_.tenant_bytes == 0) return OkStatus();
  uint64_t blocks = 0;
  const auto tenant = tenants_.find(BaseTenant(record.tenant));
  if (tenant != tenants_.end()) blocks = tenant->second.blocks;
  std::unordered_map<BlockKey, uint32_t> freed;
  if (former != entries_.end()) {
    for (const BlockKey& key : former->second.keys) freed[key] = 1;
  }
  for (const auto& [key, one] : freed) blocks -= holds_.at(key) == 1 ? 1 : 0;
  for (const BlockKey& key : keys) {
    const auto known = holds_.find(key);
    const uint32_t others = (known == holds_.end() ? 0 : known->second) - (freed.contains(key) ? 1 : 0);
    if (others == 0) ++blocks;
  }
  if (blocks * limits_.block_bytes <= limits_.tenant_bytes) return OkStatus();
  return ExhaustedError("this tenant's cache handles would hold {} bytes, and may hold {} (store.tenant_hold_bytes); delete some or wait until they expire",
                        blocks * limits_.block_bytes, limits_.tenant_bytes);
}

/// All or, but for blocks that are pinned for others already, none.
Status HoldTable::PinAll(const CacheRecord& record, std::span<const BlockKey> keys) {
  const double left_s = record.pinned() ? kForeverS : std::min(kForeverS, record.expires_unix_s - clock_.UnixSeconds());
  const auto pinned = store_.Pin(keys, clock_.Now() + FromSeconds(std::max(0.0, left_s)));
  if (pinned.ok()) return OkStatus();
  UnpinUnheld(keys);
  return pinned.status();
}

/// Takes back the pins of what no record holds.
void HoldTable::UnpinUnheld(std::span<const BlockKey> keys) {
  std::vector<BlockKey> undo;
  for (const BlockKey& key : keys) {
    if (!holds_.contains(key)) undo.push_back(key);
  }
  store_.Unpin(undo);
}

Result<HeldBlocks> HoldTable::Hold(const CacheRecord& record, std::span<const BlockKey> keys, bool all) {
  std::lock_guard lock(mutex_);
  ExpireNow();
  Entry entry{record, Distinct(keys)};
  RETURN_IF_ERROR(Check(record, entry.keys));
  RETURN_IF_ERROR(CheckRoom(record, entry.keys));
  HeldBlocks held = store_.Describe(entry.keys);
  if (all && held.held < entry.keys.size()) return held;
  RETURN_IF_ERROR(PinAll(record, entry.keys));
  held = store_.Describe(entry.keys);  // others may have made room meanwhile; what is pinned now stays
  if (all && held.held < entry.keys.size()) {
    UnpinUnheld(entry.keys);
    return held;
  }
  const auto former = entries_.find(record.id);
  if (former == entries_.end() || !(former->second.record == record)) {
    if (const Status written = WriteFile(entry); !written.ok()) {
      UnpinUnheld(entry.keys);
      return written;
    }
  }
  Count(entry);  // before the former goes, so that what both name stays pinned
  if (former != entries_.end()) Drop(former, false);
  entries_[record.id] = std::move(entry);
  return held;
}

void HoldTable::Count(const Entry& entry) {
  TenantHolds& tenant = tenants_[std::string(BaseTenant(entry.record.tenant))];
  ++tenant.records;
  for (const BlockKey& key : entry.keys) {
    if (++holds_[key] == 1) ++tenant.blocks;
  }
  tenant.bytes = tenant.blocks * limits_.block_bytes;
  Show();
}

void HoldTable::Show() {
  std::lock_guard lock(shown_mutex_);
  shown_ = {tenants_.begin(), tenants_.end()};
}

void HoldTable::Uncount(const Entry& entry) {
  const auto tenant = tenants_.find(BaseTenant(entry.record.tenant));
  std::vector<BlockKey> free;
  for (const BlockKey& key : entry.keys) {
    const auto holds = holds_.find(key);
    if (--holds->second > 0) continue;
    holds_.erase(holds);
    free.push_back(key);
  }
  tenant->second.blocks -= free.size();
  tenant->second.bytes = tenant->second.blocks * limits_.block_bytes;
  if (--tenant->second.records == 0) tenants_.erase(tenant);
  Show();
  store_.Unpin(free);
}

void HoldTable::Drop(Entries::iterator entry, bool forget_file) {
  std::error_code error;  // a file that stays is read again at the next start, and expires then
  if (forget_file && !limits_.folder.empty()) fs::remove(PathOf(entry->first), error);
  Uncount(entry->second);
  entries_.erase(entry);
}

void HoldTable::Release(const std::string& id) {
  std::lock_guard lock(mutex_);
  ExpireNow();
  if (const auto entry = entries_.find(id); entry != entries_.end()) Drop(entry, true);
}

void HoldTable::ExpireNow() {
  const double now = clock_.UnixSeconds();
  for (auto it = entries_.begin(); it != entries_.end();) {
    const auto entry = it++;
    if (entry->second.record.Expired(now)) Drop(entry, true);
  }
}

void HoldTable::Expire() {
  std::lock_guard lock(mutex_);
  ExpireNow();
}

std::vector<CacheRecord> HoldTable::List(std::string_view tenant, const std::string& after, size_t limit) {
  std::lock_guard lock(mutex_);
  ExpireNow();
  std::vector<CacheRecord> out;
  for (auto it = entries_.upper_bound(after); it != entries_.end() && out.size() < limit; ++it) {
    if (BaseTenant(it->second.record.tenant) == BaseTenant(tenant)) out.push_back(it->second.record);
  }
  return out;
}

std::vector<CacheRecord> HoldTable::Find(std::string_view tenant, const std::string& id) {
  std::lock_guard lock(mutex_);
  ExpireNow();
  const auto entry = entries_.find(id);
  if (entry == entries_.end() || BaseTenant(entry->second.record.tenant) != BaseTenant(tenant)) return {};
  return {entry->second.record};
}

std::map<std::string, TenantHolds> HoldTable::tenants() const {
  std::lock_guard lock(shown_mutex_);
  return shown_;
}

/// One line with the XXH3-64 of the rest, then a JSON object.
Status HoldTable::WriteFile(const Entry& entry) const {
  if (limits_.folder.empty()) return OkStatus();
  const CacheRecord& record = entry.record;
  std::vector<std::string> keys;
  for (const BlockKey& key : entry.keys) keys.push_back(key.ToHex());
  const std::string body = nlohmann::ordered_json{{"id", record.id}, {"tenant", record.tenant}, {"created_unix_s", record.created_unix_s},
                                                  {"expires_unix_s", record.expires_unix_s}, {"tokens", record.tokens}, {"keys", keys}}
                               .dump();
  return WriteTextFile(PathOf(record.id), fmt::format("{:016x}\n{}\n", Xxh3_64(AsBytes(body)), body));
}

Result<HoldTable::Entry> HoldTable::ReadFile(const std::string& path) const {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  const auto damaged = [&path] { return DataLossError("{} does not verify", path); };
  if (text.size() < 18 || text.back() != '\n' || text[16] != '\n') return damaged();
  const std::string body = text.substr(17, text.size() - 18);
  if (text.substr(0, 16) != fmt::format("{:016x}", Xxh3_64(AsBytes(body)))) return damaged();
  const auto json = nlohmann::json::parse(body, nullptr, false);
  if (!json.is_object()) return damaged();
  Entry entry;
  try {  // what verifies was written above; a file made by hand may be anything
    entry.record = {json.at("id"), json.at("tenant"), json.at("tokens"), json.at("created_unix_s"), json.at("expires_unix_s")};
    for (const auto& hex : json.at("keys")) {
      ASSIGN_OR_RETURN(const BlockKey key, ParseBlockKey(hex.get<std::string>()));
      entry.keys.push_back(key);
    }
  } catch (const nlohmann::json::exception&) {
    return damaged();
  }
  if (path != PathOf(entry.record.id)) return damaged();
  return Result<Entry>(std::move(entry));
}

}  // namespace baton
