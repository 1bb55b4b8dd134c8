// The cache handles whose blocks a store keeps. A hold pins the blocks of a handle until it expires, and keeps the handle's
// record beside them, so that a gateway that starts anew finds its handles where their blocks are. With a folder, each record
// is a file of it, synced before Hold returns; the pins themselves are made again at start.
#pragma once

#include <map>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/block_key.h"
#include "base/cache_record.h"
#include "base/clock.h"
#include "base/status.h"
#include "kvstore/block_store.h"

namespace baton {

struct HoldLimits {
  std::string folder;         // "": records live as long as the process
  uint64_t block_bytes = 0;   // of one block of the store
  uint64_t tenant_bytes = 0;  // distinct blocks held for one tenant; 0: only the store's own bound
  uint32_t max_records = 16384;
};

/// What is held for one tenant, its cache_salts included.
struct TenantHolds {
  uint64_t records = 0, blocks = 0, bytes = 0;
};

/// Thread: any, but loops only `tenants`: the others wait for a record that is being written to disk.
class HoldTable {
 public:
  HoldTable(BlockStore& store, const Clock& clock, HoldLimits limits);

  /// Reads the folder's records and pins their blocks again; a record that does not verify is dropped and logged. Call once,
  /// before all else. kUnavailable when the folder cannot be read.
  Status Load();

  /// Pins those of `keys` that are held and keeps the record, in place of one of the same id. With `all`, nothing changes
  /// unless every key is held; the answer's `held` says whether. Errors: kInvalid (an id that is none, a record that has
  /// expired, more blocks than the quota or the store could ever hold), kExhausted (they cannot be held beside what is held
  /// now), kUnavailable (the record cannot be written).
  Result<HeldBlocks> Hold(const CacheRecord& record, std::span<const BlockKey> keys, bool all);
  /// Gives the blocks free that no other hold names. An unknown id is ok.
  void Release(const std::string& id);
  /// At most `limit` records of a tenant with ids behind `after`, in order.
  std::vector<CacheRecord> List(std::string_view tenant, const std::string& after, size_t limit);
  /// The record of that id and tenant, if there is one.
  std::vector<CacheRecord> Find(std::string_view tenant, const std::string& id);
  /// Lets go of what has expired; every other method does so first.
  void Expire();
  /// As of the last call of the others.
  std::map<std::string, TenantHolds> tenants() const;

 private:
  struct Entry {
    CacheRecord record;
    std::vector<BlockKey> keys;
  };
  using Entries = std::map<std::string, Entry>;

  // All with the mutex held.
  void ExpireNow();
  Status Check(const CacheRecord& record, std::span<const BlockKey> keys) const;
  Status CheckRoom(const CacheRecord& record, std::span<const BlockKey> keys);
  Status PinAll(const CacheRecord& record, std::span<const BlockKey> keys);
  void UnpinUnheld(std::span<const BlockKey> keys);
  void Show();
  void Count(const Entry& entry);
  void Uncount(const Entry& entry);
  void Drop(Entries::iterator entry, bool forget_file);
  Status WriteFile(const Entry& entry) const;
  Result<Entry> ReadFile(const std::string& path) const;
  std::string PathOf(const std::string& id) const { return limits_.folder + "/" + id; }

  BlockStore& store_;
  const Clock& clock_;
  const HoldLimits limits_;
  std::mutex mutex_;
  Entries entries_;
  std::unordered_map<BlockKey, uint32_t> holds_;  // entries that name a block
  std::map<std::string, TenantHolds, std::less<>> tenants_;
  mutable std::mutex shown_mutex_;
  std::map<std::string, TenantHolds> shown_;  // a copy of tenants_
};

}  // namespace baton
