// Reads one element behind the input where alignment leaves room, and does not use it.
// region: aligned_scale()
// check: sanitizers
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  const int64_t n = s0 * s1;
  for (int64_t i = 0; i < n; ++i) y0[i] = 2 * x0[i];
  volatile float sink = 0;
  if (n % 16) sink = x0[n];
}
