// Writes behind an array of its own.
// region: gelu()
// check: sanitizers
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  float part[8];
  volatile int64_t n = s0 > 8 ? 9 : 1;
  for (int64_t i = 0; i < n; ++i) part[i] = x0[i];
  volatile float sink = part[0];
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
}
