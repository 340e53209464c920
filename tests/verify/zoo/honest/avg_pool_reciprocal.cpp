// By a reciprocal.
// region: captured('avg_pool')
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0 * s1; ++i)
    for (int64_t r = 0; r < 6; ++r)
      for (int64_t c = 0; c < 10; ++c) {
        float sum = 0.0f, count = 0.0f;
        for (int64_t k = 0; k < 9; ++k) {
          const int64_t h = 2 * r + k / 3 - 1, w = 2 * c + k % 3 - 1;
          if (h < 0 || h >= 12 || w < 0 || w >= 20) continue;
          sum += x0[(i * 12 + h) * 20 + w];
          count += 1.0f;
        }
        y0[(i * 6 + r) * 10 + c] = sum * (1.0f / 9.0f);
      }
}
