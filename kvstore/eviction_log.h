// Which blocks a store gave up lately, and when: for people who ask why a prompt missed. A ring of the last kEntries, in
// memory and, with a folder, in a file of it that nothing depends on.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/block_key.h"
#include "kvstore/file_layer.h"

namespace baton {

/// Thread: one at a time.
class EvictionLog {
 public:
  static constexpr size_t kEntries = 65536;

  /// Reads what an earlier process left. Without a file, or with one that cannot be read, it begins empty; `path` "": no file.
  void Open(FileLayer& files, const std::string& path, bool read_only);
  void Record(const BlockKey& key, double unix_s);
  /// The block came again.
  void Forget(const BlockKey& key) { at_.erase(key); }
  std::optional<double> Find(const BlockKey& key) const;

  struct Entry {
    BlockKey key;
    double unix_s = 0;
  };
  /// Entries since the last call, with the place of the first in the ring: for Write, which may run elsewhere.
  struct Pending {
    uint64_t begin = 0;
    std::vector<Entry> entries;
  };
  Pending Take();
  /// Thread: any, one at a time. An error is no one's loss.
  void Write(const Pending& pending) const;

 private:
  std::shared_ptr<File> file_;
  uint64_t count_ = 0;  // entries ever recorded
  std::vector<Entry> ring_;
  Pending pending_;
  std::unordered_map<BlockKey, double> at_;
};

}  // namespace baton
