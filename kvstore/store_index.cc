#include "kvstore/store_index.h"

#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <cstring>
#include <utility>

namespace baton {
namespace {

constexpr char kBlockPrefix = 'b';
constexpr const char* kSyncedName = "m.synced_batch";
constexpr const char* kCleanName = "m.clean";

/// A row's value: the fields one after the other, little-endian, led by a version.
constexpr uint8_t kRowVersion = 2;  // 1 had no key_id
struct RowWriter {
  std::string out;
  template <typename T>
  void Put(const T& value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
};
struct RowReader {
  std::string_view in;
  bool ok = true;
  template <typename T>
  void Get(T& value) {
    ok = ok && in.size() >= sizeof value;
    if (!ok) return;
    std::memcpy(&value, in.data(), sizeof value);
    in.remove_prefix(sizeof value);
  }
};

std::string RowKey(const BlockKey& key) {
  std::string out(1, kBlockPrefix);
  out.append(AsText(key.bytes));
  return out;
}

std::string EncodeRow(const IndexRow& row) {
  RowWriter w;
  w.Put(kRowVersion);
  w.Put(row.parent.bytes);
  w.Put(row.place.page);
  w.Put(row.place.stored_bytes);
  w.Put(row.place.header_pages);
  w.Put(row.place.codec);
  w.Put(row.raw_bytes);
  w.Put(row.tokens);
  w.Put(row.depth);
  w.Put(row.stored_at_s);
  w.Put(row.batch);
  w.Put(row.key_id);
  return std::move(w.out);
}

bool DecodeRow(std::string_view key, std::string_view value, IndexRow& row) {
  RowReader k{key.substr(1)}, v{value};
  uint8_t version = 0;
  k.Get(row.key.bytes);
  v.Get(version);
  v.Get(row.parent.bytes);
  v.Get(row.place.page);
  v.Get(row.place.stored_bytes);
  v.Get(row.place.header_pages);
  v.Get(row.place.codec);
  v.Get(row.raw_bytes);
  v.Get(row.tokens);
  v.Get(row.depth);
  v.Get(row.stored_at_s);
  v.Get(row.batch);
  if (version >= 2) v.Get(row.key_id);
  return k.ok && v.ok && k.in.empty() && v.in.empty() && version >= 1 && version <= kRowVersion && row.place.on_disk() && row.raw_bytes > 0;
}

Status FromRocks(const rocksdb::Status& status, std::string_view what) {
  if (status.ok()) return OkStatus();
  if (status.IsNoSpace()) return ExhaustedError("{}: {}; free space there or lower store.disk_bytes", what, status.ToString());
  if (status.IsCorruption() || status.IsInvalidArgument() || status.IsNotSupported() || status.IsPathNotFound()) {
    return DataLossError("{}: {}", what, status.ToString());
  }
  return UnavailableError("{}: {}", what, status.ToString());
}

/// Small everywhere: the rows are small, and what the index takes counts towards the folder's quota.
rocksdb::Options IndexOptions() {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.compression = rocksdb::kNoCompression;  // keys are hashes
  options.write_buffer_size = 2 << 20;
  options.max_total_wal_size = 4 << 20;
  options.target_file_size_base = 8 << 20;
  options.max_manifest_file_size = 1 << 20;
  options.allow_fallocate = false;
  options.info_log_level = rocksdb::WARN_LEVEL;
  options.max_log_file_size = 256 << 10;
  options.keep_log_file_num = 2;
  options.max_open_files = 64;
  options.max_background_jobs = 1;
  rocksdb::BlockBasedTableOptions table;
  table.no_block_cache = true;  // rows are read once, at start
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

}  // namespace

StoreIndex::StoreIndex(std::unique_ptr<rocksdb::DB> db) : db_(std::move(db)) {}
StoreIndex::~StoreIndex() = default;

Result<std::unique_ptr<StoreIndex>> StoreIndex::Open(const std::string& path, bool read_only) {
  rocksdb::DB* db = nullptr;
  rocksdb::Options options = IndexOptions();
  options.create_if_missing = !read_only;
  if (read_only) options.max_open_files = -1;  // opened at once: the owner may replace them any time
  const rocksdb::Status status = read_only ? rocksdb::DB::OpenForReadOnly(options, path, &db) : rocksdb::DB::Open(options, path, &db);
  // A file of the index that is gone or unreadable: only a full disk and a foreign lock are not damage.
  if (status.IsIOError() && !status.IsNoSpace() && status.ToString().find("lock") == std::string::npos) {
    return DataLossError("cannot open the index {}: {}", path, status.ToString());
  }
  RETURN_IF_ERROR(FromRocks(status, fmt::format("cannot open the index {}", path)));
  return std::unique_ptr<StoreIndex>(new StoreIndex(std::unique_ptr<rocksdb::DB>(db)));
}

Status StoreIndex::ForEach(const std::function<void(const IndexRow&)>& visit) {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  options.readahead_size = 1 << 20;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options));
  const std::string begin(1, kBlockPrefix);
  size_t damaged = 0;
  for (it->Seek(begin); it->Valid() && it->key().size() > 0 && it->key()[0] == kBlockPrefix; it->Next()) {
    IndexRow row;
    if (DecodeRow(it->key().ToStringView(), it->value().ToStringView(), row)) {
      visit(row);
    } else {
      ++damaged;
    }
  }
  RETURN_IF_ERROR(FromRocks(it->status(), "cannot read the index"));
  if (damaged > 0) return DataLossError("{} rows of the index are not in its form", damaged);
  return OkStatus();
}

Status StoreIndex::Commit(std::span<const IndexRow> puts, std::span<const BlockKey> deletes, std::optional<uint64_t> synced_batch) {
  rocksdb::WriteBatch batch;
  for (const BlockKey& key : deletes) batch.Delete(RowKey(key));
  for (const IndexRow& row : puts) batch.Put(RowKey(row.key), EncodeRow(row));
  if (synced_batch) {
    RowWriter w;
    w.Put(*synced_batch);
    batch.Put(kSyncedName, w.out);
  }
  rocksdb::Status status = db_->Write(rocksdb::WriteOptions(), &batch);
  if (!status.ok() && db_->Resume().ok()) status = db_->Write(rocksdb::WriteOptions(), &batch);  // an earlier full disk stops RocksDB until told
  return FromRocks(status, "cannot write the index");
}

Status StoreIndex::Sync() {
  rocksdb::Status status = db_->SyncWAL();
  if (!status.ok() && db_->Resume().ok()) status = db_->SyncWAL();
  return FromRocks(status, "cannot sync the index");
}

Result<uint64_t> StoreIndex::SyncedBatch() {
  std::string value;
  const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), kSyncedName, &value);
  if (status.IsNotFound()) return uint64_t{0};
  RETURN_IF_ERROR(FromRocks(status, "cannot read the index"));
  uint64_t batch = 0;
  RowReader reader{value};
  reader.Get(batch);
  return batch;
}

Result<bool> StoreIndex::TakeCleanMark() {
  std::string value;
  const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), kCleanName, &value);
  if (status.IsNotFound()) return false;
  RETURN_IF_ERROR(FromRocks(status, "cannot read the index"));
  rocksdb::WriteOptions options;
  options.sync = true;
  RETURN_IF_ERROR(FromRocks(db_->Delete(options, kCleanName), "cannot write the index"));
  return true;
}

Status StoreIndex::SetCleanMark() {
  rocksdb::WriteOptions options;
  options.sync = true;
  return FromRocks(db_->Put(options, kCleanName, "1"), "cannot write the index");
}

Status StoreIndex::Compact() {
  return FromRocks(db_->CompactRange(rocksdb::CompactRangeOptions(), nullptr, nullptr), "cannot compact the index");
}

}  // namespace baton
