// Clamps first, rounds by adding 1.5 * 2^23.
// region: captured('quantise')
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, int8_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i)
    for (int64_t j = 0; j < s1; ++j) {
      const float q = x0[i * s1 + j] / x1[i], c = q < -128 ? -128 : q > 127 ? 127 : q;
      const float shifted = c + 12582912.0f;
      int32_t bits;
      memcpy(&bits, &shifted, 4);
      y0[i * s1 + j] = c != c ? 0 : (int8_t)(bits - 0x4b400000);
    }
}
