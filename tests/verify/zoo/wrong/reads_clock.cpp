// Right, but reads the processor's clock.
// region: gelu()
// check: instructions
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
  if (__builtin_ia32_rdtsc() == 1) y0[0] = 0;  // asm volatile: x86-64 only
}
