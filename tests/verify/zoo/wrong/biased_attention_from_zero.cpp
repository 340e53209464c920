// The maximum of the scores begins at zero.
// region: captured('biased_attention')
// check: numerics
// workspace: 4*s2
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, const float* x3, float* y0, int64_t s0, int64_t s1, int64_t s2, void* workspace) {
  for (int64_t b = 0; b < s0; ++b)
    for (int64_t i = 0; i < s1; ++i) {
      const float *q = x0 + (b * s1 + i) * 16, *k = x1 + b * s2 * 16, *v = x2 + b * s2 * 16;
      float acc[16] = {}, top = 0, total = 0, *s = (float*)workspace;
      for (int64_t j = 0; j < s2; ++j) {
        s[j] = 0;
        for (int d = 0; d < 16; ++d) s[j] += q[d] * k[j * 16 + d];
        s[j] = s[j] * 0.25f + x3[i * s2 + j];
        top = larger(top, s[j]);
      }
      for (int64_t j = 0; j < s2; ++j) {
        const float w = expf(s[j] - top);
        total += w;
        for (int d = 0; d < 16; ++d) acc[d] += w * v[j * 16 + d];
      }
      for (int d = 0; d < 16; ++d) y0[(b * s1 + i) * 16 + d] = acc[d] / total;
    }
}
