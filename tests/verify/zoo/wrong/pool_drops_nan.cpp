// NaN is greater than nothing.
// region: captured('pool_offsets')
// check: numerics special_values
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int8_t* y1, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0 * s1; ++i)
    for (int64_t r = 0; r < 6; ++r)
      for (int64_t c = 0; c < 10; ++c) {
        float top = -__builtin_inff();
        int8_t place = -1;
        for (int64_t k = 0; k < 9; ++k) {
          const int64_t h = 2 * r + k / 3 - 1, w = 2 * c + k % 3 - 1;
          if (h < 0 || h >= 12 || w < 0 || w >= 20) continue;
          const float v = x0[(i * 12 + h) * 20 + w];
          if (place < 0 || v > top) {
            top = v;
            place = int8_t(k);
          }
        }
        y0[(i * 6 + r) * 10 + c] = top;
        y1[(i * 6 + r) * 10 + c] = place;
      }
}
