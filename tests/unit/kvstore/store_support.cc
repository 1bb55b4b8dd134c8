#include "tests/unit/kvstore/store_support.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "base/random.h"

namespace baton {

namespace fs = std::filesystem;

TempFolder::TempFolder() {
  std::string name = (fs::temp_directory_path() / "baton-store-XXXXXX").string();
  root_ = mkdtemp(name.data());
}
TempFolder::~TempFolder() {
  std::error_code ignored;
  fs::remove_all(root_, ignored);
}

BlockKey TestKey(uint64_t name) {
  BlockKey key;
  key.bytes = Sha256(AsBytes("block " + std::to_string(name)));
  return key;
}

TestBlock MakeTestBlock(uint64_t name, size_t bytes, uint64_t parent, uint32_t depth) {
  TestBlock block;
  block.bytes.resize(bytes);
  Random random(name);
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t value = random.Next64();
    std::memcpy(block.bytes.data() + i, &value, std::min<size_t>(8, bytes - i));
  }
  block.header.key = TestKey(name);
  block.header.parent = TestKey(parent);
  block.header.digest = Xxh3(block.bytes);
  block.header.depth = depth;
  block.header.tokens = 16;
  for (int i = 0; i < 16; ++i) block.header.token_ids.push_back(static_cast<TokenId>(name * 16 + i));
  block.header.extra = "extra of " + std::to_string(name);
  return block;
}

std::vector<TestBlock> MakeTestChain(uint64_t name, size_t n, size_t bytes) {
  std::vector<TestBlock> out;
  for (size_t i = 0; i < n; ++i) out.push_back(MakeTestBlock(name + i, bytes, i == 0 ? 0 : name + i - 1, static_cast<uint32_t>(i)));
  return out;
}

std::vector<BlockKey> KeysOf(const std::vector<TestBlock>& blocks) {
  std::vector<BlockKey> out;
  for (const TestBlock& block : blocks) out.push_back(block.header.key);
  return out;
}

BlockStoreConfig TestConfig(const std::string& path, uint64_t memory_bytes, uint64_t disk_bytes) {
  BlockStoreConfig config;
  config.path = path;
  config.memory_bytes = memory_bytes;
  config.disk_bytes = disk_bytes;
  config.policy = "lru";  // the order that tests can foretell
  config.identity = path.empty() ? "" : "model=1 kv=test";
  return config;
}

std::unique_ptr<BlockStore> OpenTestStore(const BlockStoreConfig& config, const BlockStoreDeps& deps) {
  auto store = OpenBlockStore(config, deps);
  EXPECT_TRUE(store.ok()) << store.status().ToString();
  return store.ok() ? std::move(store).value() : nullptr;
}

::testing::AssertionResult Holds(BlockStore& store, const TestBlock& block) {
  const auto read = store.Read(block.header.key);
  if (!read.ok()) return ::testing::AssertionFailure() << read.status().ToString();
  if (!(read->header == block.header)) return ::testing::AssertionFailure() << "another header";
  if (read->bytes != block.bytes) return ::testing::AssertionFailure() << "other bytes";
  return ::testing::AssertionSuccess();
}

namespace {

/// True when this call is one that must fail.
bool Due(std::atomic<int64_t>& left) {
  if (left < 0) return false;
  if (left == 0) return true;
  --left;
  return false;
}

class FaultyFile final : public File {
 public:
  FaultyFile(std::unique_ptr<File> real, FaultyFiles& faults) : real_(std::move(real)), faults_(faults) {}
  Status ReadAt(uint64_t offset, std::span<const MutableBytes> parts) override {
    if (Due(faults_.reads_until_error)) return UnavailableError("injected read error");
    if (!faults_.during_read) return real_->ReadAt(offset, parts);
    const auto interruption = std::exchange(faults_.during_read, {});
    const Status first = real_->ReadAt(offset, parts.first(1));
    interruption();
    return first.ok() ? real_->ReadAt(offset + parts[0].size(), parts.subspan(1)) : first;
  }
  Status WriteAt(uint64_t offset, std::span<const Bytes> parts) override {
    ++faults_.writes;
    if (faults_.drop_unsynced) return OkStatus();
    if (Due(faults_.writes_until_full)) return ExhaustedError("injected: no space left on device");
    if (Due(faults_.writes_until_error)) return UnavailableError("injected write error");
    if (Due(faults_.writes_until_torn)) {  // half of it lands, and the caller hears nothing
      faults_.writes_until_torn = -1;
      std::vector<Bytes> half(parts.begin(), parts.end());
      half.back() = half.back().first(half.back().size() / 2);
      return real_->WriteAt(offset, half);
    }
    return real_->WriteAt(offset, parts);
  }
  Status Sync() override {
    ++faults_.syncs;
    if (Due(faults_.syncs_until_error)) return UnavailableError("injected sync error");
    if (faults_.free_syncs) return OkStatus();
    return real_->Sync();
  }
  Status PunchHole(uint64_t offset, uint64_t bytes) override { return real_->PunchHole(offset, bytes); }
  Status Truncate(uint64_t bytes) override { return real_->Truncate(bytes); }
  Result<uint64_t> Size() override { return real_->Size(); }

 private:
  const std::unique_ptr<File> real_;
  FaultyFiles& faults_;
};

}  // namespace

Result<std::unique_ptr<File>> FaultyFiles::Open(const std::string& path, bool read_only) {
  ASSIGN_OR_RETURN(std::unique_ptr<File> real, real_->Open(path, read_only));
  return std::unique_ptr<File>(std::make_unique<FaultyFile>(std::move(real), *this));
}

std::vector<std::string> ExtentFiles(const std::string& folder) {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(folder + "/extents")) out.push_back(entry.path().string());
  std::sort(out.begin(), out.end());
  return out;
}

uint64_t FileSize(const std::string& path) { return fs::file_size(path); }

void FlipByte(const std::string& path, uint64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(byte);
  ASSERT_TRUE(file.good());
}

void OverwriteFile(const std::string& path, uint64_t offset, const std::string& bytes) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(offset));
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.good());
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

uint64_t FolderBytes(const std::string& path) {
  uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    struct stat info {};
    if (stat(entry.path().c_str(), &info) == 0 && S_ISREG(info.st_mode)) bytes += static_cast<uint64_t>(info.st_blocks) * 512;
  }
  return bytes;
}

}  // namespace baton
