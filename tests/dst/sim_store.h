// A store whose disk fails. The real LocalStore keeps its books in memory; what it took is copied to a disk that outlives the
// process a little later, as a write-behind would, and a killed process loses what was not yet there. The seam is BlockStore: extent
// files and RocksDB's index have their own crash tests (tests/unit/kvstore/store_faults_test.cc).
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/task_threads.h"
#include "kvstore/block_store.h"
#include "tests/dst/world.h"

namespace baton::dst {

struct DiskFaults {
  double unreadable = 0;  // share of reads that fail
  double refused = 0;     // share of puts that fail: a full or broken disk
  double flip = 0;        // share of blocks given out with a byte changed
};

/// What a host's disk holds.
struct Disk {
  std::map<BlockKey, std::pair<BlockHeader, std::vector<std::byte>>> blocks;
  DiskFaults faults;
  uint64_t flipped = 0;
};

/// Thread: the world's.
class SimStore final : public BlockStore {
 public:
  /// Opens with what the disk holds. `disk` outlives it.
  SimStore(World& world, Host& host, Disk& disk, const BlockStoreConfig& config, const Clock& clock);

  size_t Lookup(std::span<const BlockKey> chain) override { return inner_->Lookup(chain); }
  Result<StoredBlock> Read(const BlockKey& key) override { return inner_->Read(key); }
  Status ReadInto(const BlockKey& key, MutableBytes out, BlockHeader* header) override { return inner_->ReadInto(key, out, header); }
  Result<BlockView> View(const BlockKey& key) override;
  Status Put(const BlockHeader& header, Bytes bytes, Durability durability) override;
  Status Flush() override { return inner_->Flush(); }
  Result<size_t> Pin(std::span<const BlockKey> keys, Instant deadline) override { return inner_->Pin(keys, deadline); }
  void Unpin(std::span<const BlockKey> keys) override { inner_->Unpin(keys); }
  uint64_t max_pinned_bytes() const override { return inner_->max_pinned_bytes(); }
  HeldBlocks Describe(std::span<const BlockKey> keys) override { return inner_->Describe(keys); }
  Result<BlockHeader> Peek(const BlockKey& key) override { return inner_->Peek(key); }
  std::optional<double> EvictedAt(const BlockKey& key) const override { return inner_->EvictedAt(key); }
  std::map<std::string, TenantUse> tenants() const override { return inner_->tenants(); }
  Status Remove(const BlockKey& key) override { return inner_->Remove(key); }
  std::vector<BlockStoreEvent> DrainEvents() override { return inner_->DrainEvents(); }
  std::vector<BlockKey> Keys() const override { return inner_->Keys(); }
  std::vector<BlockListing> List() const override { return inner_->List(); }
  BlockStoreStats stats() const override { return inner_->stats(); }
  std::string identity() const override { return inner_->identity(); }
  Result<ScrubReport> Scrub(uint64_t rate, const std::function<bool()>& stop) override { return inner_->Scrub(rate, stop); }
  Result<GcReport> Gc() override { return inner_->Gc(); }

 private:
  World& world_;
  Host& host_;
  Disk& disk_;
  std::unique_ptr<BlockStore> inner_;
};

/// I/O threads that the world schedules. As TaskThreads: destruction runs what was posted.
class SimTasks final : public TaskRunner {
 public:
  SimTasks(World& world, Host& host) : world_(world), host_(host) {}
  ~SimTasks() override {
    while (!tasks_->empty()) RunNext(*tasks_);
  }
  void Post(std::function<void()> task) override {
    tasks_->push_back(std::move(task));
    world_.AfterOn(host_, world_.Between(0, 0.003), [tasks = tasks_] { RunNext(*tasks); });
  }

 private:
  using Tasks = std::deque<std::function<void()>>;
  static void RunNext(Tasks& tasks) {
    if (tasks.empty()) return;
    const auto task = std::move(tasks.front());
    tasks.pop_front();
    task();
  }

  World& world_;
  Host& host_;
  const std::shared_ptr<Tasks> tasks_ = std::make_shared<Tasks>();
};

}  // namespace baton::dst
