// All matrices of a model, repacked for the kernels into one piece of memory.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "model/kernels/packed_matrix.h"
#include "model/thread_pool.h"
#include "model/weights.h"

namespace baton {

/// A private anonymous mapping, in large pages where the system has them; zeroed.
class LargePages {
 public:
  LargePages() = default;
  static Result<LargePages> Allocate(size_t bytes);
  LargePages(LargePages&& other) noexcept { *this = std::move(other); }
  LargePages& operator=(LargePages&& other) noexcept;
  ~LargePages();
  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

/// Thread: read-only after Pack, so any.
class PackedWeights {
 public:
  /// Packs every matrix of `file` with the threads of `pool`; `file` may be closed afterwards. kExhausted without memory.
  static Result<PackedWeights> Pack(const WeightFile& file, PackRoute route, ThreadPool& pool);
  /// Null for a name that is no matrix of the file.
  const PackedMatrix* Find(std::string_view name) const;
  size_t bytes() const { return bytes_; }

 private:
  std::map<std::string, PackedMatrix, std::less<>> matrices_;
  LargePages memory_;
  size_t bytes_ = 0;
};

}  // namespace baton
