// Blocks of 32 by two passes, brought together by Chan's formula.
// region: captured('std')
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float mean = 0, m2 = 0, count = 0;
    for (int64_t from = 0; from < s1; from += 32) {
      const float* x = x0 + i * s1 + from;
      const int64_t n = s1 - from < 32 ? s1 - from : 32;
      float a = 0, b = 0;
      for (int64_t j = 0; j < n; ++j) a += x[j];
      a /= n;
      for (int64_t j = 0; j < n; ++j) b += (x[j] - a) * (x[j] - a);
      const float d = a - mean, all = count + n;
      mean += d * n / all;
      m2 += b + d * d * count * n / all;
      count = all;
    }
    y0[i] = sqrtf(m2 / (count - 1));
  }
}
