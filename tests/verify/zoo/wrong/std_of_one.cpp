// Gives zero for a single element, which has no deviation.
// region: captured('std')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float mean = 0, m2 = 0;
    for (int64_t j = 0; j < s1; ++j) mean += x0[i * s1 + j];
    mean /= s1;
    for (int64_t j = 0; j < s1; ++j) m2 += (x0[i * s1 + j] - mean) * (x0[i * s1 + j] - mean);
    y0[i] = sqrtf(m2 / (s1 > 1 ? s1 - 1 : 1));
  }
}
