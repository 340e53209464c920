// The running sum is not reset at the end of a row.
// region: cumsum()
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  float sum = 0;
  for (int64_t i = 0; i < s0 * s1; ++i) y0[i] = sum += x0[i];
}
