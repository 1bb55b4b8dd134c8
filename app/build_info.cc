#include "app/build_info.h"

namespace baton {

BuildInfo GetBuildInfo() {
  BuildInfo info;
  info.version = BATON_VERSION;
#if defined(__clang__)
  info.compiler = "clang " __clang_version__;
#else
  info.compiler = "g++ " __VERSION__;
#endif
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw")) info.isa = "avx512";
  else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) info.isa = "avx2";
#endif
  if (info.isa.empty()) info.isa = "scalar";
#ifdef BATON_HAVE_MPI
  info.features.push_back("mpi");
#endif
#ifdef BATON_HAVE_UCX
  info.features.push_back("ucx");
#endif
#ifdef BATON_HAVE_CUDA
  info.features.push_back("cuda");
#endif
  return info;
}

}  // namespace baton
