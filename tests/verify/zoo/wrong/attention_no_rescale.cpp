// Results gathered before a new maximum are not brought to its scale.
// region: attention()
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, int64_t s0, int64_t s1, int64_t s2, int64_t s3) {
  #pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < s0; ++b) {
    for (int64_t i = 0; i < s1; ++i) {
      const float *q = x0 + (b * s1 + i) * s2, *k = x1 + b * s3 * s2, *v = x2 + b * s3 * s2;
      float *y = y0 + (b * s1 + i) * s2, top = -INFINITY, total = 0;
      for (int64_t d = 0; d < s2; ++d) y[d] = 0;
      for (int64_t j = 0; j < s3; ++j) {
        float s = 0;
        for (int64_t d = 0; d < s2; ++d) s += q[d] * k[j * s2 + d];
        s = j > i ? -INFINITY : s * 0.25f;
        const float high = larger(top, s), shift = high == -INFINITY ? 0 : high, old = top == high ? 1 : expf(top - shift);
        const float w = expf(s - shift);
        total = total * old + w;
        for (int64_t d = 0; d < s2; ++d) y[d] = y[d] + w * v[j * s2 + d];
        top = high;
      }
      for (int64_t d = 0; d < s2; ++d) y[d] /= total;
    }
  }
}
