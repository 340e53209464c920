// Rounds halves away from zero.
// region: captured('round_half')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  for (int64_t i = 0; i < s0; ++i) y0[i] = roundf(x0[i]);
}
