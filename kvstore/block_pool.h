// A worker's KV memory: one arena of equal blocks, counted references, and the published full blocks by key so that later
// requests share them. Unreferenced published blocks stay as cache and are evicted leaf-first, least recently used first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/block_key.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "base/ids.h"
#include "base/status.h"
#include "kvstore/block_events.h"

namespace baton {

struct BlockPoolStats {
  size_t total = 0, referenced = 0, cached = 0, free = 0;  // referenced + cached + free == total
  uint64_t hits = 0, misses = 0, evictions = 0;
};
using BlockPoolEvent = BlockEvent;

struct BlockPoolOptions {
  MutableBytes memory{};    // to lie in, for example shared memory; it outlives the pool. Empty: the pool maps its own
  bool huge_pages = false;  // ask for transparent huge pages: fewer TLB misses, but memory is touched 2 MiB at a time
};

/// Thread: any (one mutex, no call blocks on I/O). BlockIds are indices into the arena.
class BlockPool {
 public:
  /// Errors: kExhausted when the arena cannot be mapped (says how much was asked and which option to lower).
  static Result<std::unique_ptr<BlockPool>> Create(size_t blocks, size_t block_bytes);
  static Result<std::unique_ptr<BlockPool>> Create(size_t blocks, size_t block_bytes, const BlockPoolOptions& options);
  virtual ~BlockPool() = default;

  virtual size_t block_bytes() const = 0;
  virtual MutableBytes arena() = 0;
  virtual std::byte* data(BlockId id) = 0;

  /// `n` private blocks with one reference each, evicting cached ones if needed; all or nothing. kExhausted when fewer than n
  /// are free or evictable.
  virtual Result<std::vector<BlockId>> Allocate(size_t n) = 0;
  virtual void Ref(BlockId id) = 0;
  virtual void Unref(BlockId id) = 0;  // the last reference frees a private block, caches a published one
  /// Makes a full, no longer written block shared under `key`. If the key is already published the other block stays the
  /// published one and this one stays private; gives the id that is published under the key.
  virtual BlockId Publish(BlockId id, const BlockKey& key, const BlockKey& parent, const Digest128& digest) = 0;
  /// The longest prefix of `chain` that is here, each block with a reference taken for the caller.
  virtual std::vector<BlockId> Lookup(std::span<const BlockKey> chain) = 0;
  /// How long that prefix is; takes no reference and counts as no use.
  virtual size_t Peek(std::span<const BlockKey> chain) const = 0;
  virtual std::optional<Digest128> DigestOf(BlockId id) const = 0;  // of a published block
  /// Changes since the last call, in order.
  virtual std::vector<BlockPoolEvent> DrainEvents() = 0;
  virtual std::vector<BlockKey> Keys() const = 0;  // all that is published: a snapshot for a new coordinator
  virtual BlockPoolStats stats() const = 0;
};

}  // namespace baton
