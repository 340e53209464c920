// Takes channels c, c + 4 for a group.
// region: captured('group_norm')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, int64_t s0, int64_t s1) {
  for (int64_t b = 0; b < s0; ++b)
    for (int64_t g = 0; g < 4; ++g) {
      float mean = 0, var = 0;
      for (int64_t c = g; c < 8; c += 4)
        for (int64_t j = 0; j < s1; ++j) mean += x0[(b * 8 + c) * s1 + j];
      mean /= 2 * s1;
      for (int64_t c = g; c < 8; c += 4)
        for (int64_t j = 0; j < s1; ++j) var += (x0[(b * 8 + c) * s1 + j] - mean) * (x0[(b * 8 + c) * s1 + j] - mean);
      const float r = 1 / sqrtf(var / (2 * s1) + 1e-5f);
      for (int64_t c = g; c < 8; c += 4)
        for (int64_t j = 0; j < s1; ++j) y0[(b * 8 + c) * s1 + j] = (x0[(b * 8 + c) * s1 + j] - mean) * r * x1[c] + x2[c];
    }
}
