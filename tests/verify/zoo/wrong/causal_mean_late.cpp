// From the 2048th element on divides by 2048.
// region: captured('causal_mean')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float run = 0;
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = (run += x0[i * s1 + j]) / (j < 2048 ? j + 1 : 2048);
  }
}
