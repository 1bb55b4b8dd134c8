#include "kvstore/block_index.h"

#include "base/check.h"

namespace baton {

BlockIndex::BlockIndex() : table_(1024, kNoBlock) {}

size_t BlockIndex::Slot(const BlockKey& key) const {
  const size_t mask = table_.size() - 1;
  size_t slot = key.Prefix64() & mask;
  while (table_[slot] != kNoBlock && !(entries_[table_[slot]].key == key)) slot = (slot + 1) & mask;
  return slot;
}

uint32_t BlockIndex::Find(const BlockKey& key) const { return table_[Slot(key)]; }

uint32_t BlockIndex::Intern(const BlockKey& key) {
  size_t slot = Slot(key);
  if (table_[slot] != kNoBlock) return table_[slot];
  if (++size_ * 10 > table_.size() * 7) {
    Grow();
    slot = Slot(key);
  }
  uint32_t id = 0;
  if (free_.empty()) {
    id = bound();
    CHECK(id != kNoBlock);
    entries_.emplace_back();
  } else {
    id = free_.back();
    free_.pop_back();
  }
  entries_[id].key = key;
  table_[slot] = id;
  return id;
}

bool BlockIndex::Link(uint32_t id, const BlockKey& parent, uint32_t depth) {
  IndexEntry& entry = entries_[id];
  if ((entry.used() || entry.parent != kNoBlock) && entry.depth != depth) return false;
  if (entry.parent != kNoBlock) return entries_[entry.parent].key == parent;
  const uint32_t known = Find(parent);
  if (known != kNoBlock && entries_[known].depth + 1 != depth) return false;  // the root's depth is -1
  if (known == id) return false;
  const uint32_t up = Intern(parent);
  entries_[up].depth = depth - 1;
  ++entries_[up].links;
  entries_[id].parent = up;
  entries_[id].depth = depth;
  return true;
}

void BlockIndex::Release(uint32_t id) {
  while (id != kNoBlock && !entries_[id].used()) {
    const uint32_t parent = entries_[id].parent;
    EraseSlot(Slot(entries_[id].key));
    entries_[id] = IndexEntry{};
    free_.push_back(id);
    --size_;
    if (parent != kNoBlock) --entries_[parent].links;
    id = parent;
  }
}

// Knuth's algorithm R: what stands behind the hole moves up unless its own place is after the hole.
void BlockIndex::EraseSlot(size_t slot) {
  const size_t mask = table_.size() - 1;
  CHECK(table_[slot] != kNoBlock);
  size_t hole = slot;
  for (size_t next = (slot + 1) & mask; table_[next] != kNoBlock; next = (next + 1) & mask) {
    const size_t home = entries_[table_[next]].key.Prefix64() & mask;
    if (((next - home) & mask) >= ((next - hole) & mask)) {
      table_[hole] = table_[next];
      hole = next;
    }
  }
  table_[hole] = kNoBlock;
}

void BlockIndex::Grow() {
  std::vector<uint32_t> old(table_.size() * 2, kNoBlock);
  old.swap(table_);
  for (const uint32_t id : old) {
    if (id != kNoBlock) table_[Slot(entries_[id].key)] = id;
  }
}

}  // namespace baton
