// Multiplies by the gate twice.
// region: swiglu()
// check: numerics
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, const uint16_t* x1, uint16_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i)
    for (int64_t j = 0; j < s1; ++j) {
      const float a = from_bf16(x0[i * 2 * s1 + j]);
      y0[i * s1 + j] = to_bf16(round_bf16(a / (1 + expf(-a))) * a);
    }
}
