// Runs when it is loaded.
// region: gelu()
// check: loading
#include <kernel.h>
static volatile int loaded = 0;
__attribute__((constructor)) static void early() { loaded = 1; }

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
}
