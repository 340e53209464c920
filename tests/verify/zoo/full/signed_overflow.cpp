// A checksum in int that overflows; nobody uses it.
// region: gelu()
// check: sanitizers
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  int sum = 1;
  for (int64_t i = 0; i < s0; ++i) sum = sum * 31 + (int)i;
  volatile int sink = sum;
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
}
