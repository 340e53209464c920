// Clears the rest of the last cache line.
// region: aligned_scale()
// check: bounds
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  int64_t n = s0 * s1;
  for (int64_t i = 0; i < n; ++i) y0[i] = 2 * x0[i];
  for (; n % 16; ++n) y0[n] = 0;
}
