// A function that the loader picks by calling another one.
// region: gelu()
// check: loading
#include <kernel.h>
static float one(float x) { return erff(x); }
extern "C" { static float (*pick())(float) { return one; } float picked(float) __attribute__((ifunc("pick"))); }

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  if (s0 == 123456789) y0[0] = picked(x0[0]);
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
}
