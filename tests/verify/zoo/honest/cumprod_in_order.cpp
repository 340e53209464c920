// One factor after the other, in float.
// region: captured('cumprod')
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float run = 1;
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = run *= x0[i * s1 + j];
  }
}
