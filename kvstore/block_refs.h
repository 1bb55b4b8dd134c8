// References to pool blocks that give themselves back.
#pragma once

#include <utility>
#include <vector>

#include "kvstore/block_pool.h"

namespace baton {

/// Owns one reference of each block in it. Thread: one at a time.
class BlockRefs {
 public:
  BlockRefs() = default;
  BlockRefs(BlockPool& pool, std::vector<BlockId> ids) : pool_(&pool), ids_(std::move(ids)) {}
  BlockRefs(BlockRefs&& other) noexcept : pool_(other.pool_), ids_(std::exchange(other.ids_, {})) {}
  BlockRefs& operator=(BlockRefs&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(ids_, other.ids_);
    return *this;
  }
  ~BlockRefs() {
    for (const BlockId id : ids_) pool_->Unref(id);
  }

  const std::vector<BlockId>& ids() const { return ids_; }
  size_t size() const { return ids_.size(); }
  bool empty() const { return ids_.empty(); }
  /// Takes over another's references, behind the own ones.
  void Append(BlockRefs other) {
    if (pool_ == nullptr) pool_ = other.pool_;
    for (const BlockId id : std::exchange(other.ids_, {})) ids_.push_back(id);
  }
  /// Hands the references to the caller.
  std::vector<BlockId> Release() { return std::exchange(ids_, {}); }

 private:
  BlockPool* pool_ = nullptr;
  std::vector<BlockId> ids_;
};

}  // namespace baton
