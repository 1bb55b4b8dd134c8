// Who holds which KV block. The router asks it, for a prompt's key chain, how long a prefix each worker holds.
//
// One table of 20-byte entries: 128 bits of the key (a SHA-256, so as good as the key) and the holders. The table is cut into
// shards by the key's top bits so that growing never stalls for longer than one shard takes; inside a shard entries stand in
// the order of their keys with gaps between them ("ordered linear probing"), so a miss ends at the first greater key even at
// a load of 0.9. A block with one holder keeps it in place; several holders are a shared, counted set (coordinator/holder_sets.h):
// the blocks of one prefix mostly have equal sets, so a walk along a chain compares one number a block.
//
// Thread: one; Match and the getters may run at the same time as each other.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/block_key.h"
#include "base/ids.h"
#include "coordinator/holder_sets.h"

namespace baton {

struct PrefixMatch {
  WorkerId worker;
  uint32_t blocks = 0;  // length of the prefix it holds, at least 1
  friend bool operator==(const PrefixMatch&, const PrefixMatch&) = default;
};

class PrefixIndex {
 public:
  /// `holder` (1 to 2^31 - 1) holds `key`; false where that was known.
  bool Add(WorkerId holder, const BlockKey& key);
  /// It no longer does; false (and nothing changes) where it was not held.
  bool Remove(WorkerId holder, const BlockKey& key);
  /// It holds nothing any more. One pass over the table: milliseconds for a million blocks.
  void Drop(WorkerId holder);
  bool Holds(WorkerId holder, const BlockKey& key) const;

  /// Fills `out` (cleared first) with every worker that holds chain[0], each with the number of leading blocks it holds
  /// without a gap; shorter ones after longer ones. Exact.
  void Match(std::span<const BlockKey> chain, std::vector<PrefixMatch>& out) const;

  size_t keys() const { return keys_; }                   // distinct blocks
  size_t holder_blocks() const { return holder_blocks_; } // sum over holders of the blocks held
  size_t bytes() const;                                   // memory in use

 private:
  struct Tag {  // of a key; `high` orders
    uint64_t high, low;
  };
  struct Entry {
    uint32_t high[2], low[2];  // halves, so that an entry is 20 bytes and not 24
    HolderRef holders = kNoHolder;
  };
  struct Probe {  // a look-up under way
    Tag tag;
    const Entry* home;  // where it begins to search; valid until the next change
  };
  struct Shard {
    std::vector<Entry> slots;  // `homes` of them can be a home; the last run may go on behind them; the last one is always free
    uint32_t homes = 0, used = 0;
  };
  static constexpr size_t kShards = 256;

  static Tag TagOf(const BlockKey& key);
  static Tag TagOf(const Entry& entry);
  static size_t HomeOf(const Shard& shard, uint64_t high);
  /// Where the tag is, or where it belongs.
  static size_t Find(const Shard& shard, const Tag& tag);
  static const Entry* FindFrom(const Entry* entry, const Tag& tag);
  static bool IsOf(const Entry& entry, const Tag& tag);
  static bool IsAt(const Shard& shard, size_t at, const Tag& tag);
  static void Resize(Shard& shard, size_t homes);
  static void Insert(Shard& shard, size_t at, const Entry& entry);
  static void Erase(Shard& shard, size_t at);
  static void ShrinkIfSparse(Shard& shard);
  /// Begins a look-up: the entry is on its way from memory.
  Probe Begin(const BlockKey& key) const;
  static HolderRef HoldersOf(const Probe& probe);

  std::array<Shard, kShards> shards_;
  HolderSets sets_;
  size_t keys_ = 0, holder_blocks_ = 0;
};

}  // namespace baton
