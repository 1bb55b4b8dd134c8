#include "coordinator/prefix_index.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace baton {
namespace {

constexpr double kFullest = 0.9, kAfterResize = 0.8, kSparsest = 0.4;
constexpr size_t kFewestHomes = 16;
constexpr size_t kAhead = 16;  // keys whose entries are on their way: a table of millions misses every cache, and so many misses overlap

}  // namespace

PrefixIndex::Tag PrefixIndex::TagOf(const BlockKey& key) {
  uint64_t word[4];
  std::memcpy(word, key.bytes.data(), sizeof word);
  // Halves of a SHA-256 added are as uniform as one half; all 32 bytes count, and the odd factors (one to one) spread keys
  // that were never hashed, such as those of tests.
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15ull;
  return {(word[0] + word[2] * kOdd) * kOdd, word[1] + word[3] * kOdd};
}

PrefixIndex::Tag PrefixIndex::TagOf(const Entry& entry) {
  return {uint64_t{entry.high[1]} << 32 | entry.high[0], uint64_t{entry.low[1]} << 32 | entry.low[0]};
}

size_t PrefixIndex::HomeOf(const Shard& shard, uint64_t high) {
  const uint64_t within = (high << 8) >> 32;  // the 32 bits below those that chose the shard: monotone in `high`
  return within * shard.homes >> 32;
}

size_t PrefixIndex::Find(const Shard& shard, const Tag& tag) {
  if (shard.homes == 0) return 0;
  return FindFrom(&shard.slots[HomeOf(shard, tag.high)], tag) - shard.slots.data();
}

const PrefixIndex::Entry* PrefixIndex::FindFrom(const Entry* entry, const Tag& tag) {
  for (; entry->holders != kNoHolder; ++entry) {  // ends: the last slot is free
    const Tag here = TagOf(*entry);
    if (here.high > tag.high || (here.high == tag.high && here.low >= tag.low)) break;
  }
  return entry;
}

bool PrefixIndex::IsOf(const Entry& entry, const Tag& tag) {
  const Tag here = TagOf(entry);
  return entry.holders != kNoHolder && here.high == tag.high && here.low == tag.low;
}

bool PrefixIndex::IsAt(const Shard& shard, size_t at, const Tag& tag) {
  return shard.homes != 0 && IsOf(shard.slots[at], tag);
}

void PrefixIndex::Resize(Shard& shard, size_t homes) {
  Shard bigger;
  bigger.homes = static_cast<uint32_t>(std::max(homes, kFewestHomes));
  bigger.used = shard.used;
  bigger.slots.reserve(bigger.homes + bigger.homes / 32);
  bigger.slots.resize(bigger.homes);
  size_t next = 0;  // entries come in order, so each goes to its home or right behind its predecessor
  for (const Entry& entry : shard.slots) {
    if (entry.holders == kNoHolder) continue;
    next = std::max(next, HomeOf(bigger, TagOf(entry).high));
    bigger.slots[next++] = entry;
    if (next == bigger.slots.size()) bigger.slots.emplace_back();
  }
  shard = std::move(bigger);
}

void PrefixIndex::Insert(Shard& shard, size_t at, const Entry& entry) {
  size_t gap = at;
  while (shard.slots[gap].holders != kNoHolder) ++gap;
  if (gap + 1 == shard.slots.size()) shard.slots.emplace_back();
  std::move_backward(shard.slots.begin() + at, shard.slots.begin() + gap, shard.slots.begin() + gap + 1);
  shard.slots[at] = entry;
  ++shard.used;
}

void PrefixIndex::Erase(Shard& shard, size_t at) {
  for (; at + 1 < shard.slots.size(); ++at) {  // whoever stands behind its home moves up
    const Entry& next = shard.slots[at + 1];
    if (next.holders == kNoHolder || HomeOf(shard, TagOf(next).high) > at) break;
    shard.slots[at] = next;
  }
  shard.slots[at].holders = kNoHolder;
  --shard.used;
}

void PrefixIndex::ShrinkIfSparse(Shard& shard) {
  if (shard.homes > kFewestHomes && shard.used < kSparsest * shard.homes) {
    Resize(shard, static_cast<size_t>(shard.used / kAfterResize) + 1);
  }
}

bool PrefixIndex::Add(WorkerId holder, const BlockKey& key) {
  const Tag tag = TagOf(key);
  Shard& shard = shards_[tag.high >> 56];
  size_t at = Find(shard, tag);
  if (IsAt(shard, at, tag)) {
    HolderRef& holders = shard.slots[at].holders;
    if (sets_.Contains(holders, holder.value)) return false;
    holders = sets_.With(holders, holder.value);
  } else {
    if (shard.used + 1 > kFullest * shard.homes) {
      Resize(shard, static_cast<size_t>((shard.used + 1) / kAfterResize) + 1);
      at = Find(shard, tag);
    }
    const Entry entry{{static_cast<uint32_t>(tag.high), static_cast<uint32_t>(tag.high >> 32)},
                      {static_cast<uint32_t>(tag.low), static_cast<uint32_t>(tag.low >> 32)},
                      sets_.With(kNoHolder, holder.value)};
    Insert(shard, at, entry);
    ++keys_;
  }
  ++holder_blocks_;
  return true;
}

bool PrefixIndex::Remove(WorkerId holder, const BlockKey& key) {
  const Tag tag = TagOf(key);
  Shard& shard = shards_[tag.high >> 56];
  const size_t at = Find(shard, tag);
  if (!IsAt(shard, at, tag) || !sets_.Contains(shard.slots[at].holders, holder.value)) return false;
  --holder_blocks_;
  const HolderRef left = sets_.Without(shard.slots[at].holders, holder.value);
  if (left != kNoHolder) {
    shard.slots[at].holders = left;
    return true;
  }
  --keys_;
  Erase(shard, at);
  ShrinkIfSparse(shard);
  return true;
}

void PrefixIndex::Drop(WorkerId holder) {
  for (Shard& shard : shards_) {
    for (size_t at = 0; at < shard.slots.size();) {
      HolderRef& holders = shard.slots[at].holders;
      if (holders == kNoHolder || !sets_.Contains(holders, holder.value)) {
        ++at;
        continue;
      }
      --holder_blocks_;
      const HolderRef left = sets_.Without(holders, holder.value);
      if (left != kNoHolder) {
        holders = left;
        ++at;
        continue;
      }
      --keys_;
      Erase(shard, at);  // the next entry may stand here now
    }
    ShrinkIfSparse(shard);
  }
}

HolderRef PrefixIndex::HoldersOf(const Probe& probe) {
  const Entry& found = *FindFrom(probe.home, probe.tag);
  return IsOf(found, probe.tag) ? found.holders : kNoHolder;
}

bool PrefixIndex::Holds(WorkerId holder, const BlockKey& key) const {
  return sets_.Contains(HoldersOf(Begin(key)), holder.value);
}

PrefixIndex::Probe PrefixIndex::Begin(const BlockKey& key) const {
  static constexpr Entry kNone = {};
  const Tag tag = TagOf(key);
  const Shard& shard = shards_[tag.high >> 56];
  const Entry* home = shard.homes == 0 ? &kNone : &shard.slots[HomeOf(shard, tag.high)];
  __builtin_prefetch(home);
  return {tag, home};
}

void PrefixIndex::Match(std::span<const BlockKey> chain, std::vector<PrefixMatch>& out) const {
  out.clear();
  HolderRef before = kNoHolder;
  size_t alive = 0;  // out[0, alive) hold all blocks so far, in ascending order of id; the others ended earlier
  size_t block = 0;
  std::array<Probe, kAhead> probes;  // of the keys from `block` on, in a ring
  for (size_t i = 0; i < std::min(kAhead, chain.size()); ++i) probes[i] = Begin(chain[i]);
  for (; block < chain.size(); ++block) {
    const Probe probe = probes[block % kAhead];
    if (block + kAhead < chain.size()) probes[block % kAhead] = Begin(chain[block + kAhead]);
    const HolderRef holders = HoldersOf(probe);
    if (holders == kNoHolder) break;
    if (holders == before) continue;
    before = holders;
    const auto members = sets_.Members(before);
    if (block == 0) {
      for (const uint32_t member : members) out.push_back({WorkerId(member), 0});
      alive = out.size();
      continue;
    }
    size_t kept = 0;
    auto member = members.begin();
    for (size_t i = 0; i < alive; ++i) {
      while (member != members.end() && *member < out[i].worker.value) ++member;
      if (member != members.end() && *member == out[i].worker.value) {
        std::swap(out[kept++], out[i]);
      } else {
        out[i].blocks = static_cast<uint32_t>(block);
      }
    }
    alive = kept;
    if (alive == 0) return;
  }
  for (size_t i = 0; i < alive; ++i) out[i].blocks = static_cast<uint32_t>(block);
}

size_t PrefixIndex::bytes() const {
  size_t bytes = sizeof *this + sets_.bytes();
  for (const Shard& shard : shards_) bytes += shard.slots.capacity() * sizeof(Entry);
  return bytes;
}

}  // namespace baton
