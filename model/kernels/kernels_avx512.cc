#include "model/kernels/attention.h"

namespace baton {

const Kernels kAvx512Kernels = {"avx512", MatmulInt, MatmulFloat, Quantise, RmsNorm, SiluMul, Rotate, Attention, MergeSpans, DotPeak, StoreKv};

}  // namespace baton
