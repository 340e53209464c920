// bf16 in and out.
// region: gelu('bfloat16')
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, uint16_t* y0, int64_t s0) {
  #pragma omp parallel for simd
  for (int64_t i = 0; i < s0; ++i) { const float x = from_bf16(x0[i]); y0[i] = to_bf16(x * 0.5f * (1 + erff(x * 0.70710678f))); }
}
