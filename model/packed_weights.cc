#include "model/packed_weights.h"

#include "base/log.h"

namespace baton {
namespace {

constexpr size_t kSmallest = 16 << 20;  // bytes worth a file
constexpr std::string_view kFormat = "baton-packed-weights-v1";  // raise with every change of packed_matrix.h

/// Names the file: what the weights are, and how they are packed.
std::string CacheKey(const WeightFile& file, PackRoute route) {
  Sha256Hasher hasher;
  hasher.Update(AsBytes(kFormat));
  hasher.Update(file.info().fingerprint);
  hasher.Update(AsBytes(fmt::format(" route {}", static_cast<int>(route))));
  return HexEncode(hasher.Finish()).substr(0, 40);
}

}  // namespace

void PackedWeights::Fill(const WeightFile& file, PackRoute route, ThreadPool& pool, std::byte* out) const {
  for (const auto& entry : matrices_) {
    const auto& matrix = entry.second;  // named, as clang lets no lambda use a structured binding
    const Tensor& tensor = *file.Find(entry.first);
    pool.Run(matrix.tiles(), [&](size_t begin, size_t end, unsigned) {
      PackTiles(tensor, matrix, route, static_cast<uint32_t>(begin), static_cast<uint32_t>(end), out);
    });
    out += RoundUp(matrix.bytes(), 64);
  }
}

Result<PackedWeights> PackedWeights::Pack(const WeightFile& file, PackRoute route, const std::string& cache_folder, ThreadPool& pool) {
  PackedWeights packed;
  for (const Tensor* tensor : file.tensors()) {
    if (tensor->shape.size() != 2) continue;
    const auto [it, added] = packed.matrices_.emplace(tensor->name, PlanMatrix(*tensor, route));
    packed.bytes_ += RoundUp(it->second.bytes(), 64);
  }
  const auto fill = [&](std::byte* out) { packed.Fill(file, route, pool, out); };
  bool ready = false;
  if (!cache_folder.empty() && packed.bytes_ >= kSmallest) {
    auto cached = WeightMemory::FromCache(cache_folder, CacheKey(file, route), packed.bytes_, fill);
    ready = cached.ok();
    if (ready) packed.memory_ = std::move(*cached);
    else LOG_WARN("weights are repacked for this process alone: {}", cached.status().message());
  }
  if (!ready) {
    ASSIGN_OR_RETURN(packed.memory_, WeightMemory::Own(packed.bytes_));
    fill(packed.memory_.data());
  }
  const std::byte* place = packed.memory_.data();
  for (auto& [name, matrix] : packed.matrices_) {
    matrix.data = place;
    place += RoundUp(matrix.bytes(), 64);
  }
  return Result<PackedWeights>(std::move(packed));
}

const PackedMatrix* PackedWeights::Find(std::string_view name) const {
  const auto it = matrices_.find(name);
  return it == matrices_.end() ? nullptr : &it->second;
}

}  // namespace baton
