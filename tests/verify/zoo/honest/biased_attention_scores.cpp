// A row of scores in the workspace, three loops over it.
// region: captured('biased_attention')
// workspace: 4*s2
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, const float* x3, float* y0, int64_t s0, int64_t s1, int64_t s2, void* workspace) {
  float* s = (float*)workspace;
  for (int64_t b = 0; b < s0; ++b)
    for (int64_t i = 0; i < s1; ++i) {
      const float *q = x0 + (b * s1 + i) * 16, *k = x1 + b * s2 * 16, *v = x2 + b * s2 * 16;
      float total = 0, acc[16] = {};
      for (int64_t j = 0; j < s2; ++j) {
        float dot = 0;
        for (int d = 0; d < 16; ++d) dot += (q[d] * 0.25f) * k[j * 16 + d];
        s[j] = dot + x3[i * s2 + j];
      }
      const float top = row_max(s, s2);
      for (int64_t j = 0; j < s2; ++j) total += s[j] = expf(s[j] - top);
      const float r = 1 / total;
      for (int64_t j = 0; j < s2; ++j)
        for (int d = 0; d < 16; ++d) acc[d] += s[j] * r * v[j * 16 + d];
      memcpy(y0 + (b * s1 + i) * 16, acc, sizeof acc);
    }
}
