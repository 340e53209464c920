// Keys in tiles of 16 with a running maximum; queries in threads.
// region: captured('masked_attention')
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, const bool* x3, float* y0, int64_t s0, int64_t s1, int64_t s2) {
  #pragma omp parallel for collapse(2) schedule(dynamic)
  for (int64_t b = 0; b < s0; ++b)
    for (int64_t i = 0; i < s1; ++i) {
      const float *q = x0 + (b * s1 + i) * 16, *k = x1 + b * s2 * 16, *v = x2 + b * s2 * 16;
      float acc[16] = {}, top = -INFINITY, total = 0;
      for (int64_t from = 0; from < s2; from += 16) {
        const int64_t n = s2 - from < 16 ? s2 - from : 16;
        float s[16], high = top;
        for (int64_t j = 0; j < n; ++j) {
          s[j] = 0;
          for (int d = 0; d < 16; ++d) s[j] += q[d] * k[(from + j) * 16 + d];
          s[j] = x3[i * s2 + from + j] ? s[j] * 0.25f : -1e9f;
          high = larger(high, s[j]);
        }
        const float old = top == high ? 1 : expf(top - high);
        total *= old;
        for (int d = 0; d < 16; ++d) acc[d] *= old;
        for (int64_t j = 0; j < n; ++j) {
          const float w = expf(s[j] - high);
          total += w;
          for (int d = 0; d < 16; ++d) acc[d] += w * v[(from + j) * 16 + d];
        }
        top = high;
      }
      for (int d = 0; d < 16; ++d) y0[(b * s1 + i) * 16 + d] = acc[d] / total;
    }
}
