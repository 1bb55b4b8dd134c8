// What the store's tests share: a temporary folder, blocks that are a function of their name, a folder's files to damage.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "kvstore/block_store.h"
#include "kvstore/file_layer.h"

namespace baton {

/// A fresh folder, removed at the end.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  std::string path(const std::string& name = "store") const { return root_ + "/" + name; }

 private:
  std::string root_;
};

struct TestBlock {
  BlockHeader header;
  std::vector<std::byte> bytes;
};
BlockKey TestKey(uint64_t name);
/// Bytes, token ids and key are a function of the name. `parent` 0 is the root: depth 0.
TestBlock MakeTestBlock(uint64_t name, size_t bytes, uint64_t parent = 0, uint32_t depth = 0);
/// `n` blocks, each the next one's parent; names count up from `name`.
std::vector<TestBlock> MakeTestChain(uint64_t name, size_t n, size_t bytes);
std::vector<BlockKey> KeysOf(const std::vector<TestBlock>& blocks);

BlockStoreConfig TestConfig(const std::string& path, uint64_t memory_bytes = 1 << 20, uint64_t disk_bytes = 64 << 20);
std::unique_ptr<BlockStore> OpenTestStore(const BlockStoreConfig& config, const BlockStoreDeps& deps = {});
/// Whether the store gives exactly this block.
::testing::AssertionResult Holds(BlockStore& store, const TestBlock& block);

/// Files that fail as told. Thread: any.
class FaultyFiles final : public FileLayer {
 public:
  Result<std::unique_ptr<File>> Open(const std::string& path, bool read_only) override;

  // Each counts down the calls that still work; then the call fails (until set again). -1: never.
  std::atomic<int64_t> writes_until_full{-1}, writes_until_error{-1}, writes_until_torn{-1}, syncs_until_error{-1}, reads_until_error{-1};
  std::atomic<int64_t> writes{0}, syncs{0};
  std::atomic<bool> free_syncs{false};     // syncs cost nothing and do nothing
  std::function<void()> during_read;       // runs once, after a read's first part and before the rest of it
  std::atomic<bool> drop_unsynced{false};  // writes go nowhere: what a power loss does to pages that were never synced

 private:
  const std::unique_ptr<FileLayer> real_ = MakeSystemFiles();
};

/// The extent files of a store's folder, and changes to one of them.
std::vector<std::string> ExtentFiles(const std::string& folder);
uint64_t FileSize(const std::string& path);
void FlipByte(const std::string& path, uint64_t offset);
void OverwriteFile(const std::string& path, uint64_t offset, const std::string& bytes);
std::string ReadFile(const std::string& path);
/// All bytes of a folder's files as allocated on disk.
uint64_t FolderBytes(const std::string& path);

}  // namespace baton
