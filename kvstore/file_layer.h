// Files as the disk tier needs them, so that a test can put torn writes, flipped bytes and full disks underneath.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/bytes.h"
#include "base/status.h"

namespace baton {

/// Thread: any, writes to ranges that do not overlap. Messages name the file and the system's reason.
class File {
 public:
  virtual ~File() = default;
  /// Fills `parts` one after the other from `offset`. kDataLoss when the file ends before; kUnavailable when it cannot be read.
  virtual Status ReadAt(uint64_t offset, std::span<const MutableBytes> parts) = 0;
  /// Writes all of `parts`. kExhausted when the disk or quota is full, else kUnavailable; part of it may be written then.
  virtual Status WriteAt(uint64_t offset, std::span<const Bytes> parts) = 0;
  /// What was written is on the medium when it returns ok.
  virtual Status Sync() = 0;
  /// Gives the range's space back to the file system; it reads as zeros.
  virtual Status PunchHole(uint64_t offset, uint64_t bytes) = 0;
  virtual Status Truncate(uint64_t bytes) = 0;
  virtual Result<uint64_t> Size() = 0;
};

/// Thread: any.
class FileLayer {
 public:
  virtual ~FileLayer() = default;
  /// Opens a file; creates it unless `read_only`. Errors: kNotFound, kExhausted, kUnavailable.
  virtual Result<std::unique_ptr<File>> Open(const std::string& path, bool read_only) = 0;
};
std::unique_ptr<FileLayer> MakeSystemFiles();

/// The Status of a failed system call: `what` happened to `path`, and errno's text. ENOSPC and EDQUOT are kExhausted.
Status SystemError(int error, std::string_view what, std::string_view path);
/// A file's whole text. kNotFound, kUnavailable.
Result<std::string> ReadTextFile(const std::string& path);
/// Replaces a file's text so that a crash leaves the old or the new one, synced with its folder.
Status WriteTextFile(const std::string& path, std::string_view text);

}  // namespace baton
