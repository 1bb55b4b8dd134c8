#include "model/kernels/kernels_impl.h"

namespace baton {

const Kernels kAvx512Kernels = MakeKernels("avx512");

}  // namespace baton
