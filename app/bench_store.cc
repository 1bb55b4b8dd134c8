// `baton bench store`: each operation of the block store beside its raw limit, measured in the same run, round by round.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/bench_store_remote.h"
#include "app/cli.h"
#include "base/clock.h"
#include "base/random.h"
#include "kvstore/block_record.h"
#include "kvstore/block_store.h"
#include "kvstore/tier_ledger.h"

namespace baton {
namespace {

struct BenchStoreCommand {
  std::string path, compression = "none", key_file, transport = "shm";
  uint64_t bytes = 512ull << 20, block_bytes = 1474560, group = 8;
  uint32_t repeats = 5;
  uint64_t keys = 0;
  bool json = false;
};

/// The blocks to store: many keys over a few distinct contents, in chains of a thousand.
struct Workload {
  std::vector<std::vector<std::byte>> contents;
  std::vector<BlockHeader> headers, before;  // before: as many others, to have filled a store with
  Bytes bytes(size_t i) const { return contents[i % contents.size()]; }
};

std::vector<BlockHeader> MakeHeaders(const std::string& root, size_t count, const std::vector<Digest128>& digests) {
  constexpr size_t kChain = 1000;
  std::vector<BlockHeader> headers;
  BlockKey parent;
  for (size_t i = 0; i < count; ++i) {
    BlockHeader header;
    header.depth = static_cast<uint32_t>(i % kChain);
    if (header.depth == 0) parent.bytes = Sha256(AsBytes(root + std::to_string(i)));
    header.parent = parent;
    header.tokens = 64;
    for (int t = 0; t < 64; ++t) header.token_ids.push_back(static_cast<TokenId>(i + t));
    header.key = NextKey(parent, header.token_ids);
    header.digest = digests[i % digests.size()];
    parent = header.key;
    headers.push_back(std::move(header));
  }
  return headers;
}

Workload MakeWorkload(const BenchStoreCommand& c) {
  constexpr size_t kContents = 16;
  Workload w;
  Random random(1);
  std::vector<Digest128> digests;
  for (size_t i = 0; i < kContents; ++i) {
    std::vector<std::byte> content(c.block_bytes);
    for (std::byte& b : content) b = static_cast<std::byte>(random.Next64());
    digests.push_back(Xxh3(content));
    w.contents.push_back(std::move(content));
  }
  const size_t count = std::max<uint64_t>(1, c.bytes / c.block_bytes);
  w.headers = MakeHeaders("bench root ", count, digests);
  w.before = MakeHeaders("bench before ", count, digests);
  return w;
}

/// Medians of an operation and of its limit, in MB (10^6) a second.
struct Row {
  std::string op, limit_name;
  std::vector<double> rate, limit;
};
double Median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

struct AlignedBuffer {
  explicit AlignedBuffer(size_t size) : data(static_cast<std::byte*>(std::aligned_alloc(4096, RoundUp(size, 4096)))), size(size) {
    CHECK(data != nullptr);
    std::memset(data, 1, size);
  }
  ~AlignedBuffer() { std::free(data); }
  AlignedBuffer(const AlignedBuffer&) = delete;
  std::byte* const data;
  const size_t size;
};

class StoreBench {
 public:
  explicit StoreBench(const BenchStoreCommand& c) : c_(c), work_(MakeWorkload(c)), out_(work_.headers.size() * step_), raw_path_(c.path + "/bench.raw") {}
  ~StoreBench() {
    std::error_code ignored;
    std::filesystem::remove(raw_path_, ignored);
    std::filesystem::remove_all(c_.path + "/bench.store", ignored);
  }

  Status Run() {
    for (uint32_t round = 0; round < c_.repeats; ++round) {
      RETURN_IF_ERROR(MemoryRound());
      RETURN_IF_ERROR(DiskRound());
    }
    return OkStatus();
  }
  const std::vector<Row>& rows() const { return rows_; }
  double lookup_us() const { return Median(lookup_us_); }
  double open_s() const { return Median(open_s_); }
  size_t blocks() const { return work_.headers.size(); }
  size_t lookup_blocks() const { return std::min<size_t>(1000, work_.headers.size()); }

 private:
  double total_mb() const { return static_cast<double>(work_.headers.size() * c_.block_bytes) / 1e6; }
  Status Measure(const std::string& op, const std::string& limit_name, const std::function<Status()>& run, const std::function<Status()>& limit) {
    auto row = std::find_if(rows_.begin(), rows_.end(), [&](const Row& r) { return r.op == op; });
    if (row == rows_.end()) row = rows_.insert(rows_.end(), Row{op, limit_name, {}, {}});
    for (const bool is_limit : {true, false}) {
      const Instant begin = clock_.Now();
      RETURN_IF_ERROR(is_limit ? limit() : run());
      (is_limit ? row->limit : row->rate).push_back(total_mb() / ToSeconds(clock_.Now() - begin));
    }
    return OkStatus();
  }

  /// Where a get puts block i: each its own place, as a reader of many blocks has, and not one that stays in the processor's cache.
  std::byte* Place(size_t i) { return out_.data + i * step_; }
  /// Blocks are written in the order they come in: when the last is as durable as asked, all are.
  Status PutAll(BlockStore& store, Durability durability) { return PutAll(store, work_.headers, durability); }
  Status PutAll(BlockStore& store, const std::vector<BlockHeader>& headers, Durability durability) {
    const size_t last = headers.size() - 1;
    for (size_t i = 0; i < last; ++i) RETURN_IF_ERROR(store.Put(headers[i], work_.bytes(i)));
    return store.Put(headers[last], work_.bytes(last), durability);
  }
  Status GetAll(BlockStore& store) {
    for (size_t i = 0; i < work_.headers.size(); ++i) RETURN_IF_ERROR(store.ReadInto(work_.headers[i].key, {Place(i), c_.block_bytes}, nullptr));
    return OkStatus();
  }

  Status MemoryRound() {
    BlockStoreConfig config;
    config.memory_bytes = 2 * c_.bytes + c_.block_bytes;
    ASSIGN_OR_RETURN(const auto store, OpenBlockStore(config));
    std::vector<std::unique_ptr<std::byte[]>> copies;
    RETURN_IF_ERROR(Measure("put_memory", "memcpy", [&] { return PutAll(*store, Durability::kMemory); },
                            [&] {
                              for (size_t i = 0; i < work_.headers.size(); ++i) {
                                copies.push_back(std::make_unique_for_overwrite<std::byte[]>(c_.block_bytes));
                                std::memcpy(copies.back().get(), work_.bytes(i).data(), c_.block_bytes);
                              }
                              return OkStatus();
                            }));
    RETURN_IF_ERROR(Measure("get_memory", "memcpy", [&] { return GetAll(*store); },
                            [&] {
                              for (size_t i = 0; i < copies.size(); ++i) std::memcpy(Place(i), copies[i].get(), c_.block_bytes);
                              return OkStatus();
                            }));
    std::vector<BlockKey> chain;
    for (size_t i = 0; i < lookup_blocks(); ++i) chain.push_back(work_.headers[i].key);
    const Instant begin = clock_.Now();
    if (store->Lookup(chain) != chain.size()) return InternalError("a look-up missed what was just put");
    lookup_us_.push_back(ToSeconds(clock_.Now() - begin) * 1e6);
    return FullRound(copies);
  }

  /// As a cache that has run for a while: each put evicts a block, and memory was touched before on both sides.
  Status FullRound(const std::vector<std::unique_ptr<std::byte[]>>& copies) {
    BlockStoreConfig config;
    config.memory_bytes = work_.headers.size() * c_.block_bytes;
    ASSIGN_OR_RETURN(const auto store, OpenBlockStore(config));
    RETURN_IF_ERROR(PutAll(*store, work_.before, Durability::kMemory));
    return Measure("put_full", "memcpy", [&] { return PutAll(*store, Durability::kMemory); },
                   [&] {
                     for (size_t i = 0; i < copies.size(); ++i) std::memcpy(copies[i].get(), work_.bytes(i).data(), c_.block_bytes);
                     return OkStatus();
                   });
  }

  /// All blocks one after the other in one file; `sync` after every group.
  Status RawWrite(bool sync) {
    const int fd = open(raw_path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return UnavailableError("cannot open {}: {}", raw_path_, std::strerror(errno));
    bool good = true;
    for (size_t i = 0; i < work_.headers.size(); ++i) {
      good = good && pwrite(fd, work_.bytes(i).data(), c_.block_bytes, static_cast<off_t>(i * step_)) ==
                         static_cast<ssize_t>(c_.block_bytes);
      if (sync && ((i + 1) % c_.group == 0 || i + 1 == work_.headers.size())) good = good && fdatasync(fd) == 0;
    }
    close(fd);
    return good ? OkStatus() : UnavailableError("cannot write {}: {}", raw_path_, std::strerror(errno));
  }
  Status RawRead(bool direct) {
    const int fd = open(raw_path_.c_str(), O_RDONLY | O_CLOEXEC | (direct ? O_DIRECT : 0));
    if (fd < 0) return UnavailableError("cannot open {}{}: {}", raw_path_, direct ? " with O_DIRECT" : "", std::strerror(errno));
    bool good = true;
    for (size_t i = 0; i < work_.headers.size(); ++i) {
      good = good && pread(fd, Place(i), direct ? step_ : c_.block_bytes, static_cast<off_t>(i * step_)) >= static_cast<ssize_t>(c_.block_bytes);
    }
    close(fd);
    return good ? OkStatus() : UnavailableError("cannot read {}: {}", raw_path_, std::strerror(errno));
  }
  /// Takes a file out of the page cache.
  static void Forget(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    (void)fdatasync(fd);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
  }

  Status DiskRound() {
    std::error_code ignored;
    const std::string folder = c_.path + "/bench.store";
    BlockStoreConfig config;
    config.path = folder;
    config.compression = c_.compression;
    config.key_file = c_.key_file;
    config.memory_bytes = 64_MiB + c_.block_bytes;
    config.disk_bytes = 2 * (c_.bytes + blocks() * 2 * kPageBytes) + 64_MiB;  // a header and a part of a page a block
    for (const bool sync : {false, true}) {
      std::filesystem::remove_all(folder, ignored);
      ASSIGN_OR_RETURN(const auto store, OpenBlockStore(config));
      const auto put_groups = [&]() -> Status {
        for (size_t i = 0; i < work_.headers.size(); ++i) {
          RETURN_IF_ERROR(store->Put(work_.headers[i], work_.bytes(i)));
          if ((i + 1) % c_.group == 0) RETURN_IF_ERROR(store->Flush());
        }
        return store->Flush();
      };
      RETURN_IF_ERROR(sync ? Measure("put_synced", "write+fdatasync", put_groups, [&] { return RawWrite(true); })
                           : Measure("put_written", "write", [&] { return PutAll(*store, Durability::kWritten); }, [&] { return RawWrite(false); }));
    }
    config.memory_bytes = 0;  // so that reads are the disk's, without a promotion
    const Instant begin = clock_.Now();
    ASSIGN_OR_RETURN(const auto store, OpenBlockStore(config));
    open_s_.push_back(ToSeconds(clock_.Now() - begin));
    RETURN_IF_ERROR(Measure("get_disk_hot", "pread", [&] { return GetAll(*store); }, [&] { return RawRead(false); }));
    for (const auto& entry : std::filesystem::directory_iterator(folder + "/extents", ignored)) Forget(entry.path().string());
    return Measure("get_disk_cold", "O_DIRECT pread", [&] { return GetAll(*store); }, [&] { return RawRead(true); });
  }

  const BenchStoreCommand& c_;
  const size_t step_ = RoundUp(c_.block_bytes, 4096);
  const Workload work_;
  const SystemClock clock_;
  AlignedBuffer out_;
  const std::string raw_path_;
  std::vector<Row> rows_;
  std::vector<double> lookup_us_, open_s_;
};

/// A time that is wanted to stay below a limit.
void PrintTime(const BenchStoreCommand& c, const char* op, size_t blocks, double us, double limit_us) {
  if (c.json) {
    const nlohmann::ordered_json object = {{"op", op}, {"blocks", blocks}, {"us", us}, {"limit_us", limit_us}, {"ratio", limit_us / us}};
    std::printf("%s\n", object.dump().c_str());
  } else {
    std::printf("%-14s %9.1f us of %zu blocks   wanted %.0f us\n", op, us, blocks, limit_us);
  }
}

void PrintRow(const BenchStoreCommand& c, const Row& row) {
  const double rate = Median(row.rate), limit = Median(row.limit);
  if (c.json) {
    const nlohmann::ordered_json object = {{"op", row.op}, {"mb_per_s", rate}, {"limit", row.limit_name}, {"limit_mb_per_s", limit}, {"ratio", rate / limit}};
    std::printf("%s\n", object.dump().c_str());
  } else {
    std::printf("%-14s %9.0f MB/s   %-16s %9.0f MB/s   ratio %.2f\n", row.op.c_str(), rate, row.limit_name.c_str(), limit, rate / limit);
  }
}

uint64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t pages = 0, resident = 0;
  file >> pages >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

/// What the books of so many blocks on disk take, in chains of a thousand.
void PrintKeys(const BenchStoreCommand& c) {
  const uint64_t before = ResidentBytes();
  BlockIndex index;
  TierLedger disk(std::move(MakeCachePolicy("cost")).value());
  BlockKey parent;
  for (uint64_t i = 0; i < c.keys; ++i) {
    const auto depth = static_cast<uint32_t>(i % 1000);
    if (depth == 0) parent.bytes = Sha256(std::as_bytes(std::span(&i, 1)));
    BlockKey key = parent;
    const uint64_t scrambled = Xxh3_64(std::as_bytes(std::span(&i, 1)));
    std::memcpy(key.bytes.data(), &scrambled, sizeof scrambled);
    const uint32_t id = index.Intern(key);
    if (!index.Link(id, parent, depth)) continue;
    index[id].disk = {static_cast<uint32_t>(i), kPageBytes, 1, 0};
    disk.Add(id, {key.Prefix64(), index[id].parent, depth, 2 * kPageBytes});
    parent = key;
  }
  const double bytes = static_cast<double>(ResidentBytes() - before);
  if (c.json) {
    std::printf("%s\n", nlohmann::ordered_json{{"op", "keys"}, {"keys", c.keys}, {"bytes", bytes}}.dump().c_str());
  } else {
    std::printf("%-14s %9.0f MB for %llu keys   %.0f bytes a key\n", "keys", bytes / 1e6, static_cast<unsigned long long>(c.keys), bytes / static_cast<double>(c.keys));
  }
}

int RunBenchStore(const BenchStoreCommand& c) {
  if (c.bytes < c.block_bytes) return Fail(InvalidError("--bytes {} is less than one block of --block-bytes {}", c.bytes, c.block_bytes));
  std::error_code error;
  std::filesystem::create_directories(c.path, error);
  if (error) return Fail(InvalidError("cannot make the folder {}: {}", c.path, error.message()));
  const auto remote = BenchRemoteGet(c.transport, 1_MiB, std::min<uint64_t>(c.bytes, 256_MiB), c.repeats);  // forks: before there are threads
  if (!remote.ok()) return Fail(remote.status());
  PrintRow(c, {"get_other_proc", "memcpy", remote->get_mb_per_s, remote->memcpy_mb_per_s});
  StoreBench bench(c);
  if (const Status status = bench.Run(); !status.ok()) return Fail(status);
  for (const Row& row : bench.rows()) PrintRow(c, row);
  constexpr double kLookupLimitUs = 100;  // of a chain of a thousand
  PrintTime(c, "lookup", bench.lookup_blocks(), bench.lookup_us(), kLookupLimitUs);
  PrintTime(c, "start", bench.blocks(), bench.open_s() * 1e6, 1e6 * static_cast<double>(CeilDiv(bench.blocks(), 100'000)));
  if (c.keys > 0) PrintKeys(c);
  return 0;
}

}  // namespace

void AddBenchStoreCommand(CLI::App& bench, CommandContext& context) {
  auto command = std::make_shared<BenchStoreCommand>();
  BenchStoreCommand& c = *command;
  CLI::App* app = bench.add_subcommand("store", "the block store, each operation beside its raw limit");
  app->add_option("--path", c.path, "folder on the disk to measure; what is written there is removed again")->required();
  app->add_option("--bytes", c.bytes, "bytes of a round")->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40));
  app->add_option("--block-bytes", c.block_bytes, "bytes of a block; 1474560 is SmolLM2-135M's with 64 tokens in f16")
      ->check(CLI::Range(uint64_t{64}, uint64_t{1} << 29));
  app->add_option("--group", c.group, "blocks of a synced batch")->check(CLI::Range(1, 1000000));
  app->add_option("--compression", c.compression, "none, zstd, lz4 or planes");
  app->add_option("--key-file", c.key_file, "seals the blocks on disk (store.key_file)");
  app->add_option("--transport", c.transport, "transport to the other process")->check(CLI::IsMember({"shm", "tcp"}));
  app->add_option("--keys", c.keys, "also measures the memory of the books of so many blocks on disk; 0: no")->check(CLI::Range(uint64_t{0}, uint64_t{100'000'000}));
  app->add_option("--repeats", c.repeats, "rounds; medians are printed")->check(CLI::Range(1, 1000));
  app->add_flag("--json", c.json, "one JSON object a line");
  app->callback([command, &context] { context.exit_code = RunBenchStore(*command); });
}

}  // namespace baton
