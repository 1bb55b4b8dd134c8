// Strong types for the numbers that travel: a RequestId cannot be passed where a TransferId is meant.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace baton {

template <typename Tag, typename T>
struct StrongId {
  T value{};
  constexpr StrongId() = default;
  constexpr explicit StrongId(T v) : value(v) {}
  friend constexpr auto operator<=>(const StrongId&, const StrongId&) = default;
};

/// A rank's number in the cluster, given by the coordinator; 0 is nobody.
using WorkerId = StrongId<struct WorkerIdTag, uint32_t>;
/// Grows with every start of the same worker; whatever carries an older one is stale and refused.
using Incarnation = StrongId<struct IncarnationTag, uint64_t>;
/// One client request, unique in the cluster's life; 0 is none.
using RequestId = StrongId<struct RequestIdTag, uint64_t>;
/// One hand-off of KV bytes between two workers, never reused.
using TransferId = StrongId<struct TransferIdTag, uint64_t>;
/// A slot of a worker's block pool.
using BlockId = StrongId<struct BlockIdTag, uint32_t>;

using TokenId = int32_t;

}  // namespace baton

template <typename Tag, typename T>
struct std::hash<baton::StrongId<Tag, T>> {
  size_t operator()(const baton::StrongId<Tag, T>& id) const noexcept {
    uint64_t x = static_cast<uint64_t>(id.value) + 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
  }
};
