// Every hundredth result in fp16.
// region: gelu()
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
  for (int64_t i = 0; i < s0; i += 100) y0[i] = (float)(_Float16)y0[i];
}
