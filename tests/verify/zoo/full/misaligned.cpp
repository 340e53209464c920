// Reads doubles where floats lie.
// region: gelu()
// check: sanitizers
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  volatile double sink = 0;
  for (int64_t i = 1; i + 1 < s0; i += 2) sink = ((const double*)(x0 + i))[0];
  for (int64_t i = 0; i + 1 < s0; i += 2) sink = ((const double*)(x0 + i))[0];
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
}
