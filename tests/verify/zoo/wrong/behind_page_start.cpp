// Writes one element behind the output, where there is room for it.
// region: gelu()
// check: bounds
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
  if (((uintptr_t)y0 & 4095) == 0 && s0 % 1024) y0[s0] = 1;
}
