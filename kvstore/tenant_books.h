// Whose the blocks of a store are, how much each tenant's take, and which of a tenant's own leaves when it is over its quota.
// A chain's root stands for its tenant: it is told once, with the chain's first block, and kept in a file of the folder.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kvstore/block_index.h"
#include "kvstore/block_store.h"
#include "kvstore/file_layer.h"

namespace baton {

/// Ids are the index's. Thread: one at a time.
class TenantBooks {
 public:
  using Tenant = uint32_t;  // small numbers; 0 is that of chains of no named tenant

  explicit TenantBooks(const BlockIndex& index);
  /// Reads the names that an earlier process wrote; "": they live as long as this one. What cannot be read is no one's.
  void Open(FileLayer& files, const std::string& path, bool read_only);
  /// `root` begins chains of `name`. At most kMaxRoots are remembered; further ones are of no named tenant.
  void Name(const BlockKey& root, const std::string& name);

  /// Whose a block is that stands behind `parent`.
  Tenant Of(const BlockKey& parent) const;
  void Add(uint32_t id, uint64_t bytes);
  void Remove(uint32_t id);  // one that is not here: nothing
  void Use(uint32_t id);
  /// The tenant's block used longest ago that nothing follows and `spared` does not spare.
  std::optional<uint32_t> Victim(Tenant tenant, const std::function<bool(uint32_t)>& spared) const;
  uint64_t bytes(Tenant tenant) const { return accounts_[tenant].use.bytes; }
  const std::string& name(Tenant tenant) const { return accounts_[tenant].name; }
  std::map<std::string, TenantUse> All() const;

  static constexpr size_t kMaxRoots = 65536, kMaxNameBytes = 64;

 private:
  struct Slot {
    uint64_t used = 0;  // when, in uses of any block
    uint32_t bytes = 0, children = 0, parent = kNoBlock;
    Tenant tenant = 0;
    bool here = false;
  };
  struct Account {
    std::string name;
    TenantUse use;
    std::set<std::pair<uint64_t, uint32_t>> leaves;  // by their last use
  };
  Slot& At(uint32_t id);
  Tenant TenantOf(uint32_t id) const;
  Tenant Intern(const std::string& name);
  bool Remember(const BlockKey& root, const std::string& name);

  const BlockIndex& index_;
  std::vector<Slot> slots_;
  std::vector<Account> accounts_;
  std::unordered_map<BlockKey, Tenant> roots_;
  std::unique_ptr<File> file_;
  uint64_t file_bytes_ = 0, uses_ = 0;
};

}  // namespace baton
