// The memory repacked weights live in: private large pages, or a file mapped read-only that all processes of a host share.
//
// The file is one page of header (magic, size, XXH3 digest of the rest) and the weights. It is filled under another name
// and renamed when complete, so a reader never sees half a file; the digest guards against a damaged disk, not against an
// attacker: the folder must be the user's own. Old files are never removed; delete the folder to free the space.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "base/status.h"

namespace baton {

class WeightMemory {
 public:
  using Filler = std::function<void(std::byte* out)>;

  WeightMemory() = default;
  WeightMemory(WeightMemory&& other) noexcept { *this = std::move(other); }
  WeightMemory& operator=(WeightMemory&& other) noexcept;
  ~WeightMemory();

  /// Zeroed, in large pages where the system has them. kExhausted.
  static Result<WeightMemory> Own(size_t bytes);
  /// `folder`/`key`.packed if it is there and intact; else made anew by `fill`. While another process makes the same file
  /// this one waits for it, at most 30 s. kUnavailable (folder, disk) and kDeadline mean: use Own.
  static Result<WeightMemory> FromCache(const std::string& folder, const std::string& key, size_t bytes, const Filler& fill);

  /// 64-byte aligned; may be written only if Own made it.
  std::byte* data() const { return data_; }
  bool shared() const { return shared_; }

 private:
  WeightMemory(void* mapping, size_t mapped, size_t offset, bool shared);
  static Result<WeightMemory> MapFile(const std::string& path, size_t bytes);
  void* mapping_ = nullptr;
  size_t mapped_ = 0;
  std::byte* data_ = nullptr;
  bool shared_ = false;
};

/// The "baton" folder in the user's cache folder ($XDG_CACHE_HOME, else $HOME/.cache); empty where there is neither.
std::string UserCacheFolder();

}  // namespace baton
