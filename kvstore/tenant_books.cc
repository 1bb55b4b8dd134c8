#include "kvstore/tenant_books.h"

#include <algorithm>

#include "base/log.h"

namespace baton {

TenantBooks::TenantBooks(const BlockIndex& index) : index_(index), accounts_(1) {}

void TenantBooks::Open(FileLayer& files, const std::string& path, bool read_only) {
  if (path.empty()) return;
  const auto text = ReadTextFile(path);
  size_t whole = 0;  // bytes of whole lines: a torn one at the end is written over
  for (size_t end = 0; text.ok() && (end = text->find('\n', whole)) != std::string::npos; whole = end + 1) {
    const std::string line = text->substr(whole, end - whole);
    const size_t space = std::min(line.find(' '), line.size());
    if (const auto root = ParseBlockKey(line.substr(0, space)); root.ok()) Remember(*root, line.substr(std::min(space + 1, line.size())));
  }
  if (read_only) return;
  auto file = files.Open(path, false);
  if (!file.ok()) return;
  file_ = std::move(*file);
  file_bytes_ = whole;
}

bool TenantBooks::Remember(const BlockKey& root, const std::string& name) {
  if (name.empty() || name.size() > kMaxNameBytes || name.find_first_of(" \n\t\r") != std::string::npos) return false;
  if (roots_.size() >= kMaxRoots || roots_.contains(root)) return false;
  roots_[root] = Intern(name);
  return true;
}

void TenantBooks::Name(const BlockKey& root, const std::string& name) {
  if (!Remember(root, name) || file_ == nullptr) return;
  const std::string line = root.ToHex() + " " + name + "\n";
  const Bytes bytes = AsBytes(line);
  if (const Status written = file_->WriteAt(file_bytes_, std::span(&bytes, 1)); !written.ok()) {
    LOG_WARN("store: a tenant's name is not kept over a restart: {}", written.message());
    return;
  }
  file_bytes_ += line.size();
}

TenantBooks::Tenant TenantBooks::Intern(const std::string& name) {
  const auto found = std::find_if(accounts_.begin(), accounts_.end(), [&](const Account& a) { return a.name == name; });
  if (found != accounts_.end()) return static_cast<Tenant>(found - accounts_.begin());
  accounts_.push_back({name, {}, {}});
  return static_cast<Tenant>(accounts_.size() - 1);
}

TenantBooks::Slot& TenantBooks::At(uint32_t id) {
  if (id >= slots_.size()) slots_.resize(std::max<size_t>(size_t{id} + 1, slots_.size() * 3 / 2));
  return slots_[id];
}

TenantBooks::Tenant TenantBooks::TenantOf(uint32_t id) const {
  while (id != kNoBlock) {
    if (id < slots_.size() && slots_[id].here) return slots_[id].tenant;
    if (index_[id].parent == kNoBlock) {
      const auto root = roots_.find(index_[id].key);
      return root == roots_.end() ? 0 : root->second;
    }
    id = index_[id].parent;
  }
  return 0;
}

TenantBooks::Tenant TenantBooks::Of(const BlockKey& parent) const {
  const uint32_t id = index_.Find(parent);
  if (id != kNoBlock) return TenantOf(id);
  const auto root = roots_.find(parent);
  return root == roots_.end() ? 0 : root->second;
}

void TenantBooks::Add(uint32_t id, uint64_t bytes) {
  const uint32_t parent = index_[id].parent;
  const Tenant tenant = TenantOf(parent);
  Slot& slot = At(id);
  if (slot.here) return;
  slot = {++uses_, static_cast<uint32_t>(bytes), slot.children, parent, tenant, true};
  Account& account = accounts_[tenant];
  ++account.use.blocks;
  account.use.bytes += bytes;
  if (slot.children == 0) account.leaves.insert({slot.used, id});
  if (parent == kNoBlock) return;
  Slot& up = At(parent);
  if (++up.children == 1 && up.here) accounts_[up.tenant].leaves.erase({up.used, parent});
}

void TenantBooks::Remove(uint32_t id) {
  if (id >= slots_.size() || !slots_[id].here) return;
  Slot& slot = slots_[id];
  Account& account = accounts_[slot.tenant];
  --account.use.blocks;
  account.use.bytes -= slot.bytes;
  account.leaves.erase({slot.used, id});
  slot.here = false;
  if (slot.parent == kNoBlock) return;
  Slot& up = slots_[slot.parent];
  if (--up.children == 0 && up.here) accounts_[up.tenant].leaves.insert({up.used, slot.parent});
}

void TenantBooks::Use(uint32_t id) {
  if (id >= slots_.size() || !slots_[id].here) return;
  Slot& slot = slots_[id];
  auto& leaves = accounts_[slot.tenant].leaves;
  const bool leaf = leaves.erase({slot.used, id}) > 0;
  slot.used = ++uses_;
  if (leaf) leaves.insert({slot.used, id});
}

std::optional<uint32_t> TenantBooks::Victim(Tenant tenant, const std::function<bool(uint32_t)>& spared) const {
  for (const auto& [used, id] : accounts_[tenant].leaves) {
    if (!spared(id)) return id;
  }
  return std::nullopt;
}

std::map<std::string, TenantUse> TenantBooks::All() const {
  std::map<std::string, TenantUse> all;
  for (const Account& account : accounts_) all[account.name] = account.use;
  return all;
}

}  // namespace baton
