// Rounds to nearest by the processor's mode.
// region: captured('quantise')
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, int8_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i)
    for (int64_t j = 0; j < s1; ++j) {
      const float q = rintf(x0[i * s1 + j] / x1[i]);
      y0[i * s1 + j] = (int8_t)(int)(q < -128 ? -128 : q > 127 ? 127 : q);
    }
}
