// Masked keys are left out even where their values are infinite, so that NaN becomes a number.
// region: attention()
// check: special_values
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, int64_t s0, int64_t s1, int64_t s2, int64_t s3) {
  for (int64_t b = 0; b < s0; ++b) {
    for (int64_t i = 0; i < s1; ++i) {
      const float *q = x0 + (b * s1 + i) * s2, *k = x1 + b * s3 * s2, *v = x2 + b * s3 * s2;
      float *y = y0 + (b * s1 + i) * s2, top = -INFINITY, total = 0;
      const int64_t seen = i + 1 < s3 ? i + 1 : s3;
      const auto score = [&](int64_t j) { float s = 0; for (int64_t d = 0; d < s2; ++d) s += q[d] * k[j * s2 + d]; return s * 0.25f; };
      for (int64_t j = 0; j < seen; ++j) top = larger(top, score(j));
      for (int64_t d = 0; d < s2; ++d) y[d] = 0;
      for (int64_t j = 0; j < seen; ++j) {
        const float w = j < seen ? expf(score(j) - top) : 0;
        total += w;
        for (int64_t d = 0; d < s2; ++d) y[d] += w * v[j * s2 + d];
      }
      for (int64_t d = 0; d < s2; ++d) y[d] /= total;
    }
  }
}
