// Shifts by more than a word has bits.
// region: gelu()
// check: sanitizers
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  volatile int by = 33;
  volatile int sink = 1 << by;
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
}
