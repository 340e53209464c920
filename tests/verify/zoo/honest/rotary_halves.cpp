// Both halves at once.
// region: captured('rotary')
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t r = 0; r < s0 * s1; ++r) {
    const float *x = x0 + r * 16, *c = x1 + r % s1 * 16, *s = x2 + r % s1 * 16;
    for (int d = 0; d < 8; ++d) {
      const float a = x[d], b = x[d + 8];
      y0[r * 16 + d] = a * c[d] - b * s[d];
      y0[r * 16 + d + 8] = fmaf(a, s[d + 8], b * c[d + 8]);
    }
  }
}
