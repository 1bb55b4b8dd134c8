#include "model/kernels/attention.h"

namespace baton {

const Kernels kAvx2Kernels = {"avx2", MatmulInt, MatmulFloat, Quantise, RmsNorm, SiluMul, Rotate, Attention, MergeSpans, DotPeak, StoreKv};

}  // namespace baton
