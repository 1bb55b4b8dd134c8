#include "kvstore/eviction_log.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace baton {
namespace {

// On disk: key, seconds, number of the entry; 48 bytes. A torn entry names a key that does not exist.
constexpr size_t kBytes = 48;
using Raw = std::array<std::byte, kBytes>;

}  // namespace

void EvictionLog::Open(FileLayer& files, const std::string& path, bool read_only) {
  if (path.empty()) return;
  auto file = files.Open(path, read_only);
  if (!file.ok()) return;
  file_ = std::move(*file);
  const auto size = file_->Size();
  if (!size.ok()) return;
  std::vector<std::byte> bytes(std::min<uint64_t>(*size / kBytes, kEntries) * kBytes);
  const MutableBytes all(bytes);
  if (!file_->ReadAt(0, std::span(&all, 1)).ok()) return;
  std::vector<std::pair<uint64_t, Entry>> found;
  for (size_t at = 0; at < bytes.size(); at += kBytes) {
    Entry entry;
    uint64_t number = 0;
    std::memcpy(entry.key.bytes.data(), &bytes[at], 32);
    std::memcpy(&entry.unix_s, &bytes[at + 32], 8);
    std::memcpy(&number, &bytes[at + 40], 8);
    if (number % kEntries == at / kBytes) found.emplace_back(number, entry);
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  ring_.resize(found.empty() ? 0 : kEntries);
  for (const auto& [number, entry] : found) {
    ring_[number % kEntries] = entry;
    at_[entry.key] = entry.unix_s;
    count_ = number + 1;
  }
}

void EvictionLog::Record(const BlockKey& key, double unix_s) {
  if (ring_.empty()) ring_.resize(kEntries);
  Entry& slot = ring_[count_ % kEntries];
  if (const auto old = at_.find(slot.key); old != at_.end() && old->second == slot.unix_s) at_.erase(old);
  slot = {key, unix_s};
  at_[key] = unix_s;
  if (file_ != nullptr) {
    if (pending_.entries.empty()) pending_.begin = count_;
    if (pending_.entries.size() < kEntries) pending_.entries.push_back(slot);
  }
  ++count_;
}

std::optional<double> EvictionLog::Find(const BlockKey& key) const {
  const auto found = at_.find(key);
  return found == at_.end() ? std::nullopt : std::optional(found->second);
}

EvictionLog::Pending EvictionLog::Take() { return std::exchange(pending_, {}); }

void EvictionLog::Write(const Pending& pending) const {
  if (file_ == nullptr) return;
  for (size_t i = 0; i < pending.entries.size(); ++i) {
    const uint64_t number = pending.begin + i;
    Raw raw;
    std::memcpy(raw.data(), pending.entries[i].key.bytes.data(), 32);
    std::memcpy(raw.data() + 32, &pending.entries[i].unix_s, 8);
    std::memcpy(raw.data() + 40, &number, 8);
    const Bytes bytes(raw);
    if (!file_->WriteAt(number % kEntries * kBytes, std::span(&bytes, 1)).ok()) return;
  }
}

}  // namespace baton
