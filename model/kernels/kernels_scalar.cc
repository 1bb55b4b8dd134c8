#include "model/kernels/attention.h"

namespace baton {

const Kernels kScalarKernels = {"scalar", MatmulInt, MatmulFloat, Quantise, RmsNorm, SiluMul, Rotate, Attention, MergeSpans, DotPeak, StoreKv};

}  // namespace baton
