// Overflows the stack.
// region: gelu()
// check: runs
#include <kernel.h>
static float deep(const float* x, int64_t n) { volatile char pad[4096]; pad[n % 4096] = 1; return n < 0 ? *x : deep(x, n + 1) + pad[0]; }

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  y0[0] = deep(x0, s0);
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
}
