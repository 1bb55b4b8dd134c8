// A file mapped read-only into memory. Thread: read-only after Open, so any.
// The mapping shows the file as it is on disk: whoever truncates a model file in use takes the
// pages away from under the process (SIGBUS), so replace model files by rename, as every writer of
// Baton does.
#pragma once

#include <memory>
#include <string>

#include "base/bytes.h"
#include "base/status.h"

namespace baton {

class MappedFile {
 public:
  /// Maps the whole of a regular file; an empty file gives empty bytes. Errors: kNotFound (no such
  /// file), kInvalid (not a regular file), kUnavailable (no permission, no address space), each
  /// with the path.
  static Result<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// The file's bytes; page aligned, valid while this object lives.
  Bytes bytes() const { return bytes_; }
  const std::string& path() const { return path_; }

 private:
  MappedFile(std::string path, Bytes bytes) : path_(std::move(path)), bytes_(bytes) {}
  std::string path_;
  Bytes bytes_;
};

/// `text` of a file made fit for an error message: at most 80 bytes, everything but printable ASCII
/// as \xNN.
std::string Printable(std::string_view text);

}  // namespace baton
