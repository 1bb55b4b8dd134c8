// A block in memory: its header and its bytes, never changed once shared.
#pragma once

#include <cstddef>
#include <memory>

#include "kvstore/block_store.h"

namespace baton {

struct MemoryBlock {
  BlockHeader header;
  std::unique_ptr<std::byte[]> data;
  size_t size = 0;

  Bytes bytes() const { return {data.get(), size}; }
  MutableBytes mutable_bytes() { return {data.get(), size}; }
  /// With memory that is not cleared first.
  static std::shared_ptr<MemoryBlock> Make(size_t size) {
    auto block = std::make_shared<MemoryBlock>();
    block->data = std::make_unique_for_overwrite<std::byte[]>(size);
    block->size = size;
    return block;
  }
};

}  // namespace baton
