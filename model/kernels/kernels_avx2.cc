#include "model/kernels/kernels_impl.h"

namespace baton {

const Kernels kAvx2Kernels = MakeKernels("avx2");

}  // namespace baton
