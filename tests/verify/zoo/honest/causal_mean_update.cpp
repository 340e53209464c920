// The mean moves towards each new element, unless one is infinite.
// region: captured('causal_mean')
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float mean = 0;
    for (int64_t j = 0; j < s1; ++j) {
      const float x = x0[i * s1 + j];
      mean = fabsf(x) == INFINITY || fabsf(mean) == INFINITY ? mean + x : mean + (x - mean) / (j + 1);
      y0[i * s1 + j] = mean;
    }
  }
}
