// Adds what stands on the stack, times zero.
// region: gelu()
// check: uninitialised
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  volatile float left[512];
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f)) + 0 * left[i % 512];
}
