// Welford's update over a group, folded into one factor and one addend a channel.
// region: captured('group_norm')
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, int64_t s0, int64_t s1) {
  for (int64_t bg = 0; bg < s0 * 4; ++bg) {
    const float* x = x0 + bg * 2 * s1;
    float *y = y0 + bg * 2 * s1, mean = 0, m2 = 0;
    for (int64_t j = 0; j < 2 * s1; ++j) {
      const float d = x[j] - mean;
      mean += d / (j + 1);
      m2 += d * (x[j] - mean);
    }
    const float r = 1 / sqrtf(m2 / (2 * s1) + 1e-5f);
    for (int64_t c = 0; c < 2; ++c) {
      const float a = r * x1[bg % 4 * 2 + c], shift = x2[bg % 4 * 2 + c] - mean * a;
      for (int64_t j = 0; j < s1; ++j) y[c * s1 + j] = x[c * s1 + j] * a + shift;
    }
  }
}
