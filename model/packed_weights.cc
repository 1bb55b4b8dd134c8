#include "model/packed_weights.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace baton {
namespace {

constexpr size_t kLargePage = 2 << 20;
constexpr size_t kReadAhead = 8192;  // kernels prefetch past the end of what they read

}  // namespace

Result<LargePages> LargePages::Allocate(size_t bytes) {
  LargePages pages;
  pages.bytes_ = RoundUp(bytes + kReadAhead, kLargePage);
  void* memory = mmap(nullptr, pages.bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return ExhaustedError("no memory for {} of weights: {}", HumanBytes(bytes), std::strerror(errno));
  }
  madvise(memory, pages.bytes_, MADV_HUGEPAGE);  // a wish; ordinary pages do as well
  pages.data_ = static_cast<std::byte*>(memory);
  return Result<LargePages>(std::move(pages));
}

LargePages& LargePages::operator=(LargePages&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

LargePages::~LargePages() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

Result<PackedWeights> PackedWeights::Pack(const WeightFile& file, PackRoute route, ThreadPool& pool) {
  PackedWeights packed;
  for (const Tensor* tensor : file.tensors()) {
    if (tensor->shape.size() != 2) continue;
    const auto [it, added] = packed.matrices_.emplace(tensor->name, PlanMatrix(*tensor, route));
    packed.bytes_ += RoundUp(it->second.bytes(), 64);
  }
  ASSIGN_OR_RETURN(packed.memory_, LargePages::Allocate(packed.bytes_));
  size_t offset = 0;
  for (auto& [name, matrix] : packed.matrices_) {
    const Tensor& tensor = *file.Find(name);
    std::byte* place = packed.memory_.data() + offset;
    pool.Run(matrix.tiles(), [&](size_t begin, size_t end, unsigned) {
      PackTiles(tensor, matrix, route, static_cast<uint32_t>(begin), static_cast<uint32_t>(end), place);
    });
    matrix.data = place;
    offset += RoundUp(matrix.bytes(), 64);
  }
  return Result<PackedWeights>(std::move(packed));
}

const PackedMatrix* PackedWeights::Find(std::string_view name) const {
  const auto it = matrices_.find(name);
  return it == matrices_.end() ? nullptr : &it->second;
}

}  // namespace baton
