// The mean of the means of blocks of 64, the last of which may be shorter.
// region: captured('mean_mid')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1, int64_t s2) {
  for (int64_t b = 0; b < s0; ++b)
    for (int64_t j = 0; j < s2; ++j) {
      float means = 0;
      for (int64_t from = 0; from < s1; from += 64) {
        const int64_t n = s1 - from < 64 ? s1 - from : 64;
        float part = 0;
        for (int64_t i = from; i < from + n; ++i) part += x0[(b * s1 + i) * s2 + j];
        means += part / n;
      }
      y0[b * s2 + j] = means / ((s1 + 63) / 64);
    }
}
