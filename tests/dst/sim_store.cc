#include "tests/dst/sim_store.h"

#include "base/check.h"

namespace baton::dst {

SimStore::SimStore(World& world, Host& host, Disk& disk, const BlockStoreConfig& config, const Clock& clock) : world_(world), host_(host), disk_(disk) {
  auto opened = OpenBlockStore(config, {.clock = &clock});
  CHECK(opened.ok());
  inner_ = std::move(*opened);
  for (const auto& [key, block] : disk_.blocks) {
    if (!inner_->Put(block.first, block.second, Durability::kMemory).ok()) break;
  }
}

Result<BlockView> SimStore::View(const BlockKey& key) {
  if (world_.Chance(disk_.faults.unreadable)) return NotFoundError("block {} cannot be read", key.ToHex());
  ASSIGN_OR_RETURN(BlockView view, inner_->View(key));
  if (!world_.Chance(disk_.faults.flip)) return Result<BlockView>(std::move(view));
  const auto copy = std::make_shared<std::vector<std::byte>>(view.bytes.begin(), view.bytes.end());
  (*copy)[world_.Below(copy->size())] ^= std::byte{1};
  ++disk_.flipped;
  view.bytes = *copy;
  view.owner = copy;
  return Result<BlockView>(std::move(view));
}

Status SimStore::Put(const BlockHeader& header, Bytes bytes, Durability durability) {
  if (world_.Chance(disk_.faults.refused)) return ExhaustedError("the disk is full");
  RETURN_IF_ERROR(inner_->Put(header, bytes, durability));
  world_.AfterOn(host_, world_.Between(0.001, 0.3), [this, header, copy = std::vector<std::byte>(bytes.begin(), bytes.end())] {
    disk_.blocks[header.key] = {header, copy};
  });
  return OkStatus();
}

}  // namespace baton::dst
