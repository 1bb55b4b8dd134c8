#include "kvstore/disk_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <thread>
#include <utility>

#include "base/log.h"

namespace baton {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFormatLine = "baton-store 1";
constexpr uint32_t kRetiredShare = 16;
constexpr uint64_t kMostCopies = 64, kCopiesShare = 128;  // of the room: it is within the index's share of the quota

/// Left free on the disk for the index, whatever store.disk_bytes allows: a RocksDB that meets a full disk may end the process.
constexpr uint64_t kIndexReserveBytes = 8_MiB;

std::string ExtentPath(const std::string& folder, size_t file) { return fmt::format("{}/extents/{:06}", folder, file); }

}  // namespace

uint64_t DiskFolder::CapacityBytes(uint64_t disk_bytes) {
  const uint64_t index_share = disk_bytes / 32 + std::min<uint64_t>(4_MiB, disk_bytes / 8);
  const uint64_t most = uint64_t{kNoBlock} * kPageBytes;  // pages are 32-bit numbers
  return std::min(disk_bytes - index_share, most) / kPageBytes * kPageBytes;
}

DiskFolder::DiskFolder(DiskFolderOptions options, FileLayer& files)
    : options_(std::move(options)),
      files_(files),
      capacity_bytes_(CapacityBytes(options_.disk_bytes)),
      space_(static_cast<uint32_t>(capacity_bytes_ / kPageBytes), kExtentPages) {}

DiskFolder::~DiskFolder() {
  if (index_ && !options_.read_only && Commit({}, true).ok()) (void)index_->SetCleanMark();  // without it the next start checks more
  index_.reset();
  if (lock_fd_ >= 0) close(lock_fd_);
}

Result<std::unique_ptr<DiskFolder>> DiskFolder::Open(const DiskFolderOptions& options, FileLayer& files) {
  if (options.identity.find('\n') != std::string::npos) return InvalidError("a store's identity is one line, not '{}'", options.identity);
  std::error_code error;
  if (!options.read_only) fs::create_directories(options.path, error);
  if (!fs::is_directory(options.path, error)) {
    if (!error || error == std::errc::no_such_file_or_directory) return NotFoundError("there is no store folder {}", options.path);
    return UnavailableError("cannot use the store folder {}: {}", options.path, error.message());
  }
  std::unique_ptr<DiskFolder> folder(new DiskFolder(options, files));
  if (folder->capacity_bytes_ < uint64_t{kPageBytes} * 2) {
    return InvalidError("store.disk_bytes is {}: too small for any block; raise it, or leave store.path empty for a store in memory only",
                        options.disk_bytes);
  }
  RETURN_IF_ERROR(folder->OpenLocked());
  return folder;
}

Status DiskFolder::CheckFree(uint64_t bytes) const {
  struct statvfs info {};
  if (statvfs(options_.path.c_str(), &info) != 0) return SystemError(errno, "cannot look at", options_.path);
  const uint64_t free = uint64_t{info.f_bavail} * info.f_frsize;
  if (free >= bytes) return OkStatus();
  return ExhaustedError("the disk of the store folder {} is full: {} are free, the store needs {}; free space there, lower store.disk_bytes or choose another store.path",
                        options_.path, HumanBytes(free), HumanBytes(bytes));
}

Status DiskFolder::OpenLocked() {
  if (!options_.read_only) RETURN_IF_ERROR(CheckFree(kIndexReserveBytes / 2));
  if (!options_.read_only) {
    const std::string lock = options_.path + "/LOCK";
    lock_fd_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (lock_fd_ < 0) return SystemError(errno, "cannot open", lock);
    if (flock(lock_fd_, LOCK_EX | LOCK_NB) != 0) {
      const auto owner = ReadTextFile(lock);
      return UnavailableError("the store folder {} is in use by process {} (lock file {}); stop it or choose another folder",
                              options_.path, owner.ok() ? *owner : "?", lock);
    }
    const std::string pid = std::to_string(getpid());
    if (ftruncate(lock_fd_, 0) == 0) (void)!pwrite(lock_fd_, pid.data(), pid.size(), 0);  // for the message above only
  }
  RETURN_IF_ERROR(CheckFormat());
  extents_.resize(CeilDiv(capacity_bytes_ / kPageBytes, kExtentPages));
  extent_dirty_.resize(extents_.size());
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(options_.path + "/extents", error)) {
    const std::string name = entry.path().filename().string();
    const size_t file = std::strtoull(name.c_str(), nullptr, 10);
    if (file >= extents_.size() || entry.path().string() != ExtentPath(options_.path, file)) continue;
    auto opened = files_.Open(entry.path().string(), options_.read_only);
    if (opened.ok()) extents_[file] = std::move(*opened);  // else its blocks are misses
  }
  return OpenIndex();
}

Status DiskFolder::CheckFormat() {
  const std::string path = options_.path + "/FORMAT";
  const auto text = ReadTextFile(path);
  if (!text.ok() && text.status().code() != StatusCode::kNotFound) return text.status();
  if (!text.ok()) {
    for (const auto& entry : fs::directory_iterator(options_.path)) {
      const std::string name = entry.path().filename().string();
      if (name == "LOCK" || name == "FORMAT.new" || name == "lost+found") continue;
      return InvalidError("{} is no Baton store (it has no FORMAT file) and is not empty: it holds {}; choose another folder", options_.path, name);
    }
    if (options_.read_only) return NotFoundError("{} holds no store", options_.path);
  } else {
    const size_t end = text->find('\n'), begin = end + 1 + std::string_view("identity=").size();
    if (text->substr(0, end) != kFormatLine || text->size() < begin + 1 || text->substr(end + 1, begin - end - 1) != "identity=") {
      return InvalidError("{} is not the form this program knows ({}); use the version that wrote it, or another folder", path, kFormatLine);
    }
    identity_ = text->substr(begin, text->size() - begin - 1);
    const bool unbound = identity_.empty() && !fs::exists(ExtentPath(options_.path, 0));
    if (options_.identity.empty() || options_.identity == identity_) return OkStatus();
    if (!unbound || options_.read_only) {
      return InvalidError("the store folder {} holds blocks of '{}', not of '{}'; give this model its own folder (store.path) or remove the old one",
                          options_.path, identity_, options_.identity);
    }
  }
  identity_ = options_.identity;
  std::error_code error;
  fs::create_directories(options_.path + "/extents", error);
  if (error) return UnavailableError("cannot make {}/extents: {}", options_.path, error.message());
  return WriteTextFile(path, fmt::format("{}\nidentity={}\n", kFormatLine, identity_));
}

Status DiskFolder::OpenIndex() {
  const std::string path = options_.path + "/index";
  std::error_code error;
  const bool lost = !fs::exists(path + "/CURRENT", error) && fs::exists(ExtentPath(options_.path, 0), error);
  auto index = lost ? Result<std::unique_ptr<StoreIndex>>(DataLossError("the index {} is missing", path)) : StoreIndex::Open(path, options_.read_only);
  Status status = index.status();
  if (status.ok()) {
    index_ = std::move(*index);
    auto synced = index_->SyncedBatch();
    if (synced.ok()) synced_batch_ = *synced;
    status = synced.status();
  }
  if (status.ok() && !options_.read_only) {
    const auto clean = index_->TakeCleanMark();
    if (clean.ok()) clean_ = *clean;
    status = clean.status();
  }
  if (status.code() != StatusCode::kDataLoss) return status;
  if (options_.read_only) return status.WithContext("damaged store; `baton store gc` rebuilds its index from the blocks");
  LOG_WARN("store {}: {}; rebuilding the index from the blocks", options_.path, status.message());
  return Rebuild();
}

Status DiskFolder::Rebuild() {
  const std::string path = options_.path + "/index";
  index_.reset();
  std::error_code error;
  fs::remove_all(path, error);
  if (error) return UnavailableError("cannot remove the damaged index {}: {}", path, error.message());
  ASSIGN_OR_RETURN(index_, StoreIndex::Open(path, false));
  std::vector<IndexRow> rows;
  for (uint32_t file = 0; file < extents_.size(); ++file) {
    if (extents_[file]) ScanExtent(file, rows);
  }
  std::sort(rows.begin(), rows.end(), [](const IndexRow& a, const IndexRow& b) { return a.batch < b.batch; });
  rebuilt_ = true;
  RETURN_IF_ERROR(index_->Commit(rows, {}, std::nullopt));  // a key that is there twice keeps its newest record
  return index_->Sync();
}

void DiskFolder::ScanExtent(uint32_t file, std::vector<IndexRow>& rows) {
  const auto size = extents_[file]->Size();
  if (!size.ok()) return;
  const auto end = static_cast<uint32_t>(std::min<uint64_t>(*size / kPageBytes + 1, kExtentPages));
  const auto limit = static_cast<uint32_t>(std::min<uint64_t>(capacity_bytes_ / kPageBytes - uint64_t{file} * kExtentPages, end));
  std::vector<std::byte> head;
  for (uint32_t page = 0, step = 1; page < limit; page += step) {
    step = 1;
    head.resize(kPageBytes);
    MutableBytes part = head;
    if (!extents_[file]->ReadAt(uint64_t{page} * kPageBytes, std::span(&part, 1)).ok()) continue;
    const auto pages = FindRecordHeader(head);
    if (!pages) continue;
    head.resize(size_t{*pages} * kPageBytes);
    part = head;
    if (!extents_[file]->ReadAt(uint64_t{page} * kPageBytes, std::span(&part, 1)).ok()) continue;
    const auto header = DecodeRecordHeader(head);
    if (!header) continue;
    const DiskPlace place{file * kExtentPages + page, header->stored_bytes, header->header_pages, static_cast<uint8_t>(header->codec)};
    if (uint64_t{page} + place.pages() > limit) continue;
    const auto block = MemoryBlock::Make(header->raw_bytes);
    if (!Read(header->block.key, place, block->mutable_bytes(), nullptr).ok()) continue;
    rows.push_back({header->block.key, header->block.parent, place, header->raw_bytes, header->block.tokens, header->block.depth,
                    header->stored_at_s, header->batch, header->seal ? header->seal->key_id : 0});
    step = place.pages();
  }
}

/// Takes out the rows of blocks nobody can read any more.
Status DiskFolder::DropLocked(std::vector<IndexRow>& rows) {
  const auto locked = [&](const IndexRow& row) { return row.key_id != 0 && (options_.keys == nullptr || options_.keys->SlotOfId(row.key_id) == 0); };
  const auto first = std::stable_partition(rows.begin(), rows.end(), [&](const IndexRow& row) { return !locked(row); });
  if (first == rows.end() || options_.read_only) return OkStatus();
  if (options_.keys == nullptr || options_.keys->empty()) {
    return InvalidError("the store folder {} holds sealed blocks; give its key file (store.key_file)", options_.path);
  }
  LOG_WARN("store {}: {} blocks are sealed with keys that are not in the key file: they are dropped", options_.path, rows.end() - first);
  for (auto it = first; it != rows.end(); ++it) deletes_.push_back(it->key);
  rows.erase(first, rows.end());
  return OkStatus();
}

Status DiskFolder::Load(const std::function<void(const IndexRow&)>& visit, uint64_t& corrupt) {
  std::vector<IndexRow> rows;
  const auto collect = [&] {
    rows.clear();
    return index_->ForEach([&](const IndexRow& row) { rows.push_back(row); });
  };
  Status status = collect();
  if (status.code() == StatusCode::kDataLoss && !options_.read_only && !rebuilt_) {
    LOG_WARN("store {}: {}; rebuilding the index from the blocks", options_.path, status.message());
    RETURN_IF_ERROR(Rebuild());
    status = collect();
  }
  RETURN_IF_ERROR(status);
  std::sort(rows.begin(), rows.end(), [](const IndexRow& a, const IndexRow& b) { return std::tie(a.batch, a.place.page) < std::tie(b.batch, b.place.page); });
  RETURN_IF_ERROR(DropLocked(rows));
  const bool check_late = !clean_ && !rebuilt_ && !options_.read_only;
  for (const IndexRow& row : rows) {
    batch_ = std::max(batch_, row.batch + 1);
    bool good = uint64_t{row.place.page} % kExtentPages + row.place.pages() <= kExtentPages && row.place.header_pages <= kMaxHeaderPages;
    good = good && space_.Reserve(row.place.page, row.place.pages());
    if (good && check_late && row.batch > synced_batch_) {
      const auto block = MemoryBlock::Make(row.raw_bytes);
      if (!Read(row.key, row.place, block->mutable_bytes(), nullptr).ok()) {
        space_.Free(row.place.page, row.place.pages());
        good = false;
      }
    }
    if (good) {
      visit(row);
    } else {
      ++corrupt;
      deletes_.push_back(row.key);
    }
  }
  batch_ = std::max(batch_, synced_batch_ + 1);
  if (options_.read_only) return OkStatus();
  RETURN_IF_ERROR(Commit({}, true));
  return DropAbove();
}

/// A quota that shrank: what lies above it goes. Its rows are gone already.
Status DiskFolder::DropAbove() {
  std::error_code error;
  for (size_t file = extents_.size(); fs::exists(ExtentPath(options_.path, file), error); ++file) {
    fs::remove(ExtentPath(options_.path, file), error);
  }
  const uint64_t in_last = capacity_bytes_ - (extents_.size() - 1) * uint64_t{kExtentPages} * kPageBytes;
  if (!extents_.back()) return OkStatus();
  ASSIGN_OR_RETURN(const uint64_t size, extents_.back()->Size());
  return size > in_last ? extents_.back()->Truncate(in_last) : OkStatus();
}

Status DiskFolder::Read(const BlockKey& key, const DiskPlace& place, MutableBytes out, BlockHeader* header) {
  const auto lost = [&](std::string_view why) { return DataLossError("block {} at page {}: {}", key.ToHex(), place.page, why); };
  File* file = place.page / kExtentPages < extents_.size() ? extents_[place.page / kExtentPages].get() : nullptr;
  if (file == nullptr) return lost("its extent file is missing");
  const auto codec = static_cast<Codec>(place.codec);
  if (codec == Codec::kNone && place.stored_bytes != out.size()) return lost("stored with another length");
  std::vector<std::byte> head(size_t{place.header_pages} * kPageBytes);
  std::vector<std::byte> packed(codec == Codec::kNone ? 0 : place.stored_bytes);
  const std::array<MutableBytes, 2> parts = {head, packed.empty() ? out : MutableBytes(packed)};
  RETURN_IF_ERROR(file->ReadAt(OffsetOf(place.page), parts));
  std::optional<RecordHeader> record = DecodeRecordHeader(head);
  if (!record) return lost("damaged header");
  if (!(record->block.key == key)) return lost("another block's record");
  if (record->seal) {
    const SealKey* seal = options_.keys == nullptr ? nullptr : options_.keys->at(options_.keys->SlotOfId(record->seal->key_id));
    if (seal == nullptr) return NotFoundError("block {} is sealed with a key that the key file does not have", key.ToHex());
    if (!OpenRecord(*seal, *record, packed.empty() ? out : MutableBytes(packed))) return lost("its seal is broken");
  }
  if (record->stored_bytes != place.stored_bytes || record->raw_bytes != out.size() || record->codec != codec) return lost("another length or codec");
  if (!packed.empty() && !Decompress(codec, packed, out)) return lost("does not decompress");
  if (!(Xxh3(out) == record->block.digest)) return lost("digest does not match");
  if (header != nullptr) *header = std::move(record->block);
  return OkStatus();
}

Result<IndexRow> DiskFolder::Write(RecordHeader& header, Bytes payload, uint32_t page, const SealKey* key) {
  RETURN_IF_ERROR(CheckFree(kIndexReserveBytes + payload.size()));
  const size_t number = page / kExtentPages;
  if (!extents_[number]) {
    ASSIGN_OR_RETURN(extents_[number], files_.Open(ExtentPath(options_.path, number), false));
  }
  header.batch = batch_;
  header.stored_bytes = static_cast<uint32_t>(payload.size());
  std::vector<std::byte> ciphertext;
  if (key != nullptr) ciphertext.assign(payload.begin(), payload.end());
  ASSIGN_OR_RETURN(const std::vector<std::byte> head, EncodeRecord(header, key, ciphertext));
  const std::array<Bytes, 2> parts = {head, key != nullptr ? Bytes(ciphertext) : payload};
  extent_dirty_[number] = true;
  RETURN_IF_ERROR(extents_[number]->WriteAt(OffsetOf(page), parts));
  return IndexRow{header.block.key, header.block.parent,
                  {page, header.stored_bytes, header.header_pages, static_cast<uint8_t>(header.codec)},
                  header.raw_bytes, header.block.tokens, header.block.depth, header.stored_at_s, header.batch, key == nullptr ? 0 : key->id};
}

void DiskFolder::Forget(const BlockKey& key, const DiskPlace& place, bool wipe) {
  if (wipe) wipes_.push_back(place.page);
  deletes_.push_back(key);
  freed_.push_back({place.page, place.pages()});
  freed_pages_ += place.pages();
}

/// After the index has forgotten them: a process that dies in between leaves no row that leads to a wiped record.
void DiskFolder::Wipe() {
  const std::vector<std::byte> zeros(kPageBytes);
  const Bytes part = zeros;
  for (const uint32_t page : std::exchange(wipes_, {})) {
    File* file = extents_[page / kExtentPages].get();
    if (file == nullptr) continue;
    // If this fails the record stays, but no row leads to it; only a rebuild of a lost index could find it.
    if (!file->WriteAt(OffsetOf(page), std::span(&part, 1)).ok()) LOG_WARN("store {}: could not wipe the block at page {}", options_.path, page);
    extent_dirty_[page / kExtentPages] = true;
  }
}

void DiskFolder::Quarantine(const BlockKey& key, const DiskPlace& place) {
  CopyAside(key, place);
  if (retired_pages_ + place.pages() > capacity_bytes_ / kPageBytes / kRetiredShare) return Forget(key, place, true);
  retired_pages_ += place.pages();
  deletes_.push_back(key);
}

/// For whoever wants to know what happened to it. Best effort: the disk may be what is failing.
void DiskFolder::CopyAside(const BlockKey& key, const DiskPlace& place) {
  File* file = extents_[place.page / kExtentPages].get();
  const std::string folder = options_.path + "/quarantine";
  std::error_code error;
  fs::create_directories(folder, error);
  const auto kept = static_cast<uint64_t>(std::distance(fs::directory_iterator(folder, error), fs::directory_iterator()));
  std::vector<std::byte> record(size_t{place.pages()} * kPageBytes);
  if (error || file == nullptr || kept >= kMostCopies || (kept + 1) * record.size() > capacity_bytes_ / kCopiesShare) return;
  const MutableBytes part(record);
  if (!file->ReadAt(OffsetOf(place.page), std::span(&part, 1)).ok()) return;
  auto copy = files_.Open(fmt::format("{}/{}-{}", folder, place.page, key.ToHex()), false);
  const Bytes bytes(record);
  if (!copy.ok() || !(*copy)->WriteAt(0, std::span(&bytes, 1)).ok()) LOG_WARN("store {}: could not copy block {} aside", options_.path, key.ToHex());
}

/// The records and the index's log at once: neither order matters, for rows newer than the noted batch are checked at start.
Status DiskFolder::SyncAll() {
  Status index_synced;
  std::thread index([&] { index_synced = index_->Sync(); });
  Status status;
  for (size_t i = 0; i < extents_.size(); ++i) {
    if (!extent_dirty_[i]) continue;
    const Status synced = extents_[i]->Sync();
    if (status.ok()) status = synced;
    extent_dirty_[i] = false;  // after a failed sync the kernel may have dropped the pages: trying again would prove nothing
  }
  index.join();
  return status.ok() ? index_synced : status;
}

/// Rows that were published and then could not be synced: nobody is told that they are there. Their pages stay out of use
/// until the index has forgotten them for good.
Status DiskFolder::TakeBack(std::span<const IndexRow> rows, Status why) {
  for (const IndexRow& row : rows) Forget(row.key, row.place, false);
  if (index_->Commit({}, deletes_, std::nullopt).ok()) deletes_.clear();
  unsynced_ = true;
  return why;
}

Status DiskFolder::Commit(std::span<const IndexRow> rows, bool sync) {
  if (rows.empty() && deletes_.empty() && freed_.empty() && !unsynced_) return OkStatus();
  Status status = CheckFree(kIndexReserveBytes / 8);
  if (status.ok()) status = index_->Commit(rows, deletes_, synced_batch_);
  if (!status.ok()) {
    for (const IndexRow& row : rows) space_.Free(row.place.page, row.place.pages());
    return status;
  }
  deletes_.clear();
  Wipe();
  const uint64_t batch = batch_++;
  unsynced_ = true;
  if (!sync) return OkStatus();
  if (status = SyncAll(); !status.ok()) return TakeBack(rows, status);
  synced_batch_ = batch;  // noted with the next commit
  unsynced_ = false;
  for (const Freed& range : freed_) space_.Free(range.page, range.pages);
  freed_.clear();
  freed_pages_ = 0;
  return OkStatus();
}

Result<uint64_t> DiskFolder::Shrink() {
  RETURN_IF_ERROR(Commit({}, true));
  RETURN_IF_ERROR(index_->Compact());
  ASSIGN_OR_RETURN(const uint64_t before, AllocatedBytes());
  for (const auto& [page, pages] : space_.FreeRanges()) {
    const auto& file = extents_[page / kExtentPages];
    if (!file) continue;
    ASSIGN_OR_RETURN(const uint64_t size, file->Size());
    const uint64_t begin = OffsetOf(page), bytes = uint64_t{pages} * kPageBytes;
    if (begin < size) RETURN_IF_ERROR(begin + bytes >= size ? file->Truncate(begin) : file->PunchHole(begin, bytes));
  }
  ASSIGN_OR_RETURN(const uint64_t after, AllocatedBytes());
  return before - std::min(before, after);
}

Result<uint64_t> DiskFolder::AllocatedBytes() const {
  uint64_t bytes = 0;
  for (size_t file = 0; file < extents_.size(); ++file) {
    struct stat info {};
    if (!extents_[file]) continue;
    if (stat(ExtentPath(options_.path, file).c_str(), &info) != 0) return SystemError(errno, "cannot look at", ExtentPath(options_.path, file));
    bytes += static_cast<uint64_t>(info.st_blocks) * 512;
  }
  return bytes;
}

}  // namespace baton
