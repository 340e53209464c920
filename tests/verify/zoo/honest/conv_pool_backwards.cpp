// The places in the opposite order, each product and sum rounded once; padding brings nothing.
// region: captured('conv_pool')
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i)
    for (int64_t o = 0; o < s1; ++o)
      for (int64_t r = 0; r < 6; ++r)
        for (int64_t c = 0; c < 7; ++c) {
          float top = -__builtin_inff();
          for (int64_t p = 0; p < 4; ++p) {
            float sum = x2[o];
            for (int64_t k = 0; k < 9; ++k) {
              const int64_t q = 8 - k, h = 2 * r + p / 2 + q / 3 - 1, w = 2 * c + p % 2 + q % 3 - 1;
              if (h >= 0 && h < 12 && w >= 0 && w < 14) sum = __builtin_fmaf(x0[(i * 12 + h) * 14 + w], x1[o * 9 + q], sum);
            }
            const float y = relu(sum);
            if (y > top || y != y) top = y;
          }
          y0[((i * s1 + o) * 6 + r) * 7 + c] = top;
        }
}
