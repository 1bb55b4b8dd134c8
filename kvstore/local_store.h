// The store of one process: memory over an optional folder on disk. One mutex guards the books (index, ledgers, queue);
// bytes are copied, hashed, read and written outside it. One writer thread owns the folder: it takes what waits as one
// batch, makes room, writes the records and publishes them together, so a batch grows while the one before is written. Another
// thread may read through what is on disk, slowly, so that damage is found before it is asked for.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>
#include <utility>

#include "kvstore/block_index.h"
#include "kvstore/block_store.h"
#include "kvstore/disk_folder.h"
#include "kvstore/eviction_log.h"
#include "kvstore/tenant_books.h"
#include "kvstore/tier_ledger.h"

namespace baton {

struct LocalStoreParts {
  BlockStoreConfig config;
  const Clock* clock;
  std::unique_ptr<FileLayer> files;  // null when the caller owns it
  std::unique_ptr<CachePolicy> memory_policy, disk_policy;
  Codec codec = Codec::kNone;
  std::unique_ptr<const KeyRing> keys;  // null: blocks are not sealed
  std::unique_ptr<DiskFolder> folder;  // null: memory only
};

class LocalStore final : public BlockStore {
 public:
  explicit LocalStore(LocalStoreParts parts);
  ~LocalStore() override;
  /// Takes over what the folder holds and starts the writer; call once, before all else.
  Status Start();
  /// Reads what else the folder keeps: evictions, and the tenants' names.
  void OpenBooks(FileLayer& files);

  size_t Lookup(std::span<const BlockKey> chain) override;
  Result<StoredBlock> Read(const BlockKey& key) override;
  Status ReadInto(const BlockKey& key, MutableBytes out, BlockHeader* header) override;
  Result<BlockView> View(const BlockKey& key) override;
  Status Put(const BlockHeader& header, Bytes bytes, Durability durability) override;
  Status Flush() override;
  Result<size_t> Pin(std::span<const BlockKey> keys, Instant deadline) override;
  void Unpin(std::span<const BlockKey> keys) override;
  uint64_t max_pinned_bytes() const override;
  HeldBlocks Describe(std::span<const BlockKey> keys) override;
  Result<BlockHeader> Peek(const BlockKey& key) override;
  std::optional<double> EvictedAt(const BlockKey& key) const override;
  std::map<std::string, TenantUse> tenants() const override;
  Status Remove(const BlockKey& key) override;
  std::vector<BlockStoreEvent> DrainEvents() override;
  std::vector<BlockKey> Keys() const override;
  std::vector<BlockListing> List() const override;
  BlockStoreStats stats() const override;
  std::string identity() const override;
  Result<ScrubReport> Scrub(uint64_t bytes_per_s, const std::function<bool()>& stop) override;
  Result<GcReport> Gc() override;

 private:
  using Lock = std::unique_lock<std::mutex>;
  struct WriteOp {
    uint32_t id;
    uint64_t ticket;
    std::shared_ptr<const MemoryBlock> block;
    uint32_t stored_at_s;
    uint16_t key_slot;
  };
  /// How a block leaves the disk.
  enum class Leave : uint8_t { kEvicted, kDropped, kWiped, kBad };
  struct ForgetOp {
    BlockKey key;
    DiskPlace place;
    Leave how;
  };
  struct Batch {
    std::vector<ForgetOp> forgets;
    std::vector<WriteOp> writes;
    uint64_t upto = 0;  // every ticket up to here is done with it
    bool sync = false;
  };
  struct Failure {
    uint64_t first, last;  // tickets
    Status status;
  };

  // local_store.cc: all with the mutex held
  uint32_t FindLive(const BlockKey& key);
  bool Expired(uint32_t id) const;  // of a block that is held
  void Touch(uint32_t id);
  Status Insert(const std::shared_ptr<MemoryBlock>& block, uint64_t* ticket);
  Status PutAgain(Lock& lock, uint32_t id, Durability durability);
  bool TryMakeRoom(uint64_t bytes, const BlockKey& parent);
  Status MakeRoom(Lock& lock, uint64_t bytes, const BlockKey& parent);
  void ChooseKey(uint32_t id, const std::string& tenant);
  void Enqueue(uint32_t id, std::shared_ptr<const MemoryBlock> block);
  Status WaitTicket(Lock& lock, uint64_t ticket, Durability durability);
  BlockTraits Traits(uint32_t id, uint64_t bytes) const;
  void AddToDisk(uint32_t id, const DiskPlace& place);
  void DropMemory(uint32_t id, bool evicted);
  void DropDisk(uint32_t id, Leave how);
  void Vanish(uint32_t id, bool wipe);
  void Gone(uint32_t id, bool evicted);
  void Record(bool added, const BlockKey& key) { events_.Record(added, key, 4 * index_.size() + 1024); }
  void Promote(uint32_t id, uint64_t ticket, std::shared_ptr<const MemoryBlock> block);
  /// Reads with the mutex released. A block that does not verify is counted and quarantined; kAborted when it went meanwhile.
  Status ReadDisk(Lock& lock, uint32_t id, MutableBytes out, BlockHeader* header);
  bool DropIfCorrupt(uint32_t id, const std::shared_ptr<const MemoryBlock>& block);
  Status Miss(const BlockKey& key);
  Status MakeTenantRoom(const BlockHeader& header, uint64_t bytes);
  void CountTenants();
  void Forgotten(uint32_t id);  // the entry is about to be released

  // local_store_pins.cc
  void ExpirePins();
  void ReleasePin(uint32_t id);
  TierLedger& PinTier(const IndexEntry& entry) { return entry.disk.on_disk() ? disk_ : memory_; }

  // local_store_writer.cc: on the writer's thread, with the mutex free unless said
  void ScrubLoop();  // on the scrubber's thread
  void WriterLoop();
  Batch TakeBatch();                       // mutex held
  bool Wanted(const WriteOp& op) const;    // mutex held: nobody removed the block since it was queued
  void RunBatch(const Batch& batch);
  void MakeDiskRoom(const Batch& batch, uint64_t pages);
  struct DiskHold {
    uint32_t id;
    BlockKey key;
    DiskPlace place;
  };
  std::vector<DiskHold> HoldParents(const Batch& batch);
  void Unhold(const std::vector<DiskHold>& holds);
  bool EvictFromDisk();
  std::optional<uint32_t> AllocatePages(uint32_t pages);
  Result<IndexRow> WriteBlock(const WriteOp& op, Bytes payload, Codec codec);
  void Finish(const WriteOp& op, const Result<IndexRow>& row);     // mutex held
  void Fail(uint64_t first, uint64_t last, const Status& status);  // mutex held

  const BlockStoreConfig config_;
  const Clock& clock_;
  const std::unique_ptr<FileLayer> files_;
  const Codec codec_;
  const std::unique_ptr<const KeyRing> keys_;
  const std::unique_ptr<DiskFolder> folder_;
  std::mutex folder_mutex_;  // the writer's batches and Gc; taken before mutex_

  mutable std::mutex mutex_;
  BlockIndex index_;
  TierLedger memory_, disk_;
  BlockEvents events_;
  EvictionLog evictions_;
  std::optional<TenantBooks> tenants_;  // where there is a quota
  BlockStoreStats counters_;  // those that only count up; the rest is read from the books
  std::unordered_map<uint32_t, Instant> pins_;
  std::set<std::pair<Instant, uint32_t>> pin_deadlines_;
  uint64_t pinned_bytes_ = 0, dirty_blocks_ = 0;

  std::deque<WriteOp> queue_;
  std::vector<ForgetOp> forgets_;
  uint64_t last_ticket_ = 0, written_ticket_ = 0, synced_ticket_ = 0, sync_wanted_ = 0, flushed_ticket_ = 0;
  std::deque<Failure> failures_;
  bool stop_ = false;
  Instant last_sync_{};
  std::condition_variable wake_, progress_;  // for the writer; for those who wait for it
  std::thread writer_, scrubber_;
};

}  // namespace baton
