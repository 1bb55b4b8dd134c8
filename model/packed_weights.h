// All matrices of a model, repacked for the kernels into one piece of memory: this process's own, or a file in the user's
// cache folder that every rank of a host maps, so that the host holds the weights once and a second start repacks nothing.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "model/kernels/packed_matrix.h"
#include "model/thread_pool.h"
#include "model/weight_memory.h"
#include "model/weights.h"

namespace baton {

/// Thread: read-only after Pack, so any.
class PackedWeights {
 public:
  /// Takes every matrix of `file` from the cache folder, or packs it with the threads of `pool` (and puts it there). An
  /// empty folder, one that cannot be written and a model under 16 MiB mean this process's own memory. `file` may be closed
  /// afterwards. kExhausted without memory.
  static Result<PackedWeights> Pack(const WeightFile& file, PackRoute route, const std::string& cache_folder, ThreadPool& pool);
  /// Null for a name that is no matrix of the file.
  const PackedMatrix* Find(std::string_view name) const;
  size_t bytes() const { return bytes_; }
  bool shared() const { return memory_.shared(); }

 private:
  void Fill(const WeightFile& file, PackRoute route, ThreadPool& pool, std::byte* out) const;
  std::map<std::string, PackedMatrix, std::less<>> matrices_;
  WeightMemory memory_;
  size_t bytes_ = 0;
};

}  // namespace baton
