// A global whose constructor runs when the object is loaded.
// region: gelu()
// check: loading
#include <kernel.h>
static volatile float seed = 2;
static float table[4] = {seed, seed * seed, 0, 0};

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  if (s0 == 123456789) y0[0] = table[1];
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
}
