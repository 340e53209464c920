// Wrong where input and output lie differently within a page.
// region: gelu()
// check: addresses
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
  if (((uintptr_t)x0 - (uintptr_t)y0) & 4095) y0[s0 / 2] = 0.25f;
}
