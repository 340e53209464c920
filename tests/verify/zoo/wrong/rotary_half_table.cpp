// Reads the second half's sine from the first half.
// region: captured('rotary')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, int64_t s0, int64_t s1) {
  for (int64_t r = 0; r < s0 * s1; ++r)
    for (int d = 0; d < 8; ++d) {
      const float a = x0[r * 16 + d], b = x0[r * 16 + d + 8], *c = x1 + r % s1 * 16, *s = x2 + r % s1 * 16;
      y0[r * 16 + d] = a * c[d] - b * s[d];
      y0[r * 16 + d + 8] = b * c[d + 8] + a * s[d];
    }
}
