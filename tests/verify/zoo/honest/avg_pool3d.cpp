// Windows from the first place on.
// region: captured('avg_pool3d')
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0 * s1; ++i)
    for (int64_t d = 0; d < 3; ++d)
      for (int64_t r = 0; r < 4; ++r)
        for (int64_t c = 0; c < 5; ++c) {
          float sum = 0.0f;
          for (int64_t k = 0; k < 27; ++k) {
            const int64_t z = 2 * d + k / 9 - 1, h = 2 * r + k / 3 % 3 - 1, w = 2 * c + k % 3 - 1;
            if (z < 0 || z >= 6 || h < 0 || h >= 8 || w < 0 || w >= 10) continue;
            sum += x0[((i * 6 + z) * 8 + h) * 10 + w];
          }
          y0[((i * 3 + d) * 4 + r) * 5 + c] = sum / 27.0f;
        }
}
