#include "model/kernels/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace baton {

size_t AttentionTask::ScratchFloats(const KvLayout& layout, uint32_t rows, uint32_t group) {
  const size_t dim = RoundUp(layout.head_dim, 16), queries = size_t{rows} * group;
  return 2 * dim * kAttentionTile + queries * (3 * dim + 4);
}

size_t AttentionTask::SpanFloats(const KvLayout& layout, uint32_t rows, uint32_t group, uint32_t positions) {
  return CeilDiv(positions, kAttentionSpan) * rows * group * (RoundUp(layout.head_dim, 16) + 2);
}

#if defined(__x86_64__)
namespace {
/// __builtin_cpu_supports knows no "f16c" in clang 14.
bool HasF16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
}  // namespace
#endif

Result<const Kernels*> SelectKernels(std::string_view isa) {
  bool avx2 = false, avx512 = false;
#if defined(__x86_64__)
  __builtin_cpu_init();
  avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
  avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512bf16");
#endif
  if (isa != "auto" && isa != "scalar" && isa != "avx2" && isa != "avx512") {
    return InvalidError("there is no instruction set \"{}\"; give auto, scalar, avx2 or avx512", isa);
  }
  if ((isa == "avx2" && !avx2) || (isa == "avx512" && !avx512)) {
    return UnavailableError("this CPU lacks {}; give auto, which takes the best it has", isa);
  }
#if defined(__x86_64__)
  if (isa == "avx512" || (isa == "auto" && avx512)) return &kAvx512Kernels;
  if (isa == "avx2" || (isa == "auto" && avx2)) return &kAvx2Kernels;
#endif
  return &kScalarKernels;
}

}  // namespace baton
