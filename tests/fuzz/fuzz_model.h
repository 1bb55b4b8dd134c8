// What the fuzz targets of model files share: a folder to write to, and use of what loads.
#pragma once

#include <string>

#include "base/bytes.h"

namespace baton {

/// A temporary folder. It stays behind when a target crashes: what it holds is the case. Copies name the same folder.
class FuzzFolder {
 public:
  FuzzFolder();
  const std::string& path() const { return path_; }
  /// Gives the file's path.
  std::string Write(const std::string& name, Bytes bytes) const;

 private:
  std::string path_;
};

/// Loads the model at `path`; where that succeeds and it is small, computes two tokens with each of the kernels.
void UseModel(const std::string& path);
/// Loads the tokenizer at `path`; where that succeeds, encodes and decodes with it.
void UseTokenizer(const std::string& path);

}  // namespace baton
