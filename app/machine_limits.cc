#include "app/machine_limits.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

#include "model/weight_memory.h"

namespace baton {
namespace {

constexpr size_t kReadBytes = 256_MiB;
constexpr int kPasses = 8;

double ThreadCpuSeconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// The mean over threads of each one's best pass; work(thread) gives how much a pass did.
template <typename Work>
double BestRate(unsigned threads, const Work& work) {
  std::vector<double> best(threads, 0);
  std::vector<std::thread> runners;
  for (unsigned t = 0; t < threads; ++t) {
    runners.emplace_back([&best, &work, t] {
      for (int pass = 0; pass < kPasses; ++pass) {
        const double begin = ThreadCpuSeconds();
        const auto done = static_cast<double>(work(t));
        best[t] = std::max(best[t], done / std::max(ThreadCpuSeconds() - begin, 1e-9));
      }
    });
  }
  for (std::thread& runner : runners) runner.join();
  return std::accumulate(best.begin(), best.end(), 0.0) / threads;
}

/// Adds up [p, p + bytes) as 8-byte words, four sums of two side by side; p is 16-byte aligned.
uint64_t Sum(const std::byte* p, size_t bytes) {
  using Pair = uint64_t __attribute__((vector_size(16), may_alias));
  const auto* words = reinterpret_cast<const Pair*>(p);
  Pair a{}, b{}, c{}, d{};
  for (const Pair* end = words + bytes / 64 * 4; words != end; words += 4) {
    __builtin_prefetch(words + 256);
    a += words[0], b += words[1], c += words[2], d += words[3];
  }
  const Pair sum = (a + b) + (c + d);
  return sum[0] + sum[1];
}

}  // namespace

Result<double> MeasureReadRate(unsigned threads) {
  ASSIGN_OR_RETURN(const WeightMemory memory, WeightMemory::Own(kReadBytes));
  std::memset(memory.data(), 1, kReadBytes);
  const size_t share = kReadBytes / threads / 64 * 64;
  return BestRate(threads, [&](unsigned t) {
    volatile uint64_t sum = Sum(memory.data() + t * share, share);
    (void)sum;
    return share;
  });
}

double MeasureDotRate(const Kernels& kernels, unsigned threads) {
  return BestRate(threads, [&](unsigned) {
    int32_t sink = 0;
    uint64_t done = 0;
    for (const double begin = ThreadCpuSeconds(); ThreadCpuSeconds() - begin < 0.01;) done += kernels.dot_peak(1000, &sink);
    return done;
  });
}

}  // namespace baton
