#include "model/kernels/kernels_impl.h"

namespace baton {

const Kernels kScalarKernels = MakeKernels("scalar");

}  // namespace baton
