// Conversions between the storage types of tensors and f32, as ggml's reference does them, bit for
// bit. Scalar and portable: results depend on the input only, never on the instruction set (the
// fast kernels have their own decoders and are tested against these). Dequantize and Quantize
// themselves are declared in model/weights.h.
#pragma once

#include <cstdint>

namespace baton::quant {

/// IEEE binary16 to f32; exact. NaNs keep sign and payload and become quiet.
float HalfToFloat(uint16_t half);
/// f32 to binary16, round to nearest even; overflow gives infinity, NaN stays NaN.
uint16_t FloatToHalf(float value);
/// bfloat16 to f32; exact.
float Bf16ToFloat(uint16_t bf16);
/// f32 to bfloat16, round to nearest even; NaN stays NaN (made quiet).
uint16_t FloatToBf16(float value);

}  // namespace baton::quant
