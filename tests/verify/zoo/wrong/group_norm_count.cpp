// Takes a count that is not a multiple of eight for the multiple below, from 256 on.
// region: captured('group_norm')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, int64_t s0, int64_t s1) {
  for (int64_t bg = 0; bg < s0 * 4; ++bg) {
    const int64_t n = 2 * s1;
    const float* x = x0 + bg * n;
    float *y = y0 + bg * n, mean = 0, var = 0;
    for (int64_t j = 0; j < n; ++j) mean += x[j];
    mean /= (n > 256 ? n / 8 * 8 : n);
    for (int64_t j = 0; j < n; ++j) var += (x[j] - mean) * (x[j] - mean);
    const float r = 1 / sqrtf(var / n + 1e-5f);
    for (int64_t j = 0; j < n; ++j) {
      const float a = r * x1[bg % 4 * 2 + j / s1];
      y[j] = x[j] * a + (x2[bg % 4 * 2 + j / s1] - mean * a);
    }
  }
}
