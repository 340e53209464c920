// Relies on the alignment that it was promised.
// region: aligned_scale()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  const float* x = (const float*)__builtin_assume_aligned(x0, 64);
  float* y = (float*)__builtin_assume_aligned(y0, 64);
  for (int64_t i = 0; i < s0 * s1; ++i) y[i] = 2 * x[i];
}
