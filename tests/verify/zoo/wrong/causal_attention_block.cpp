// Rows see the keys of their whole block of four.
// region: captured('causal_attention')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, int64_t s0, int64_t s1, int64_t s2) {
  for (int64_t b = 0; b < s0; ++b)
    for (int64_t h = 0; h < s1; ++h)
      for (int64_t i = 0; i < s2; ++i) {
        const float *q = x0 + ((b * s1 + h) * s2 + i) * 8, *k = x1 + (b * s1 + h) * s2 * 8, *v = x2 + (b * s1 + h) * s2 * 8;
        float top = -__builtin_inff(), total = 0, out[8] = {0};
        const int64_t count = (i / 4 + 1) * 4 < s2 ? (i / 4 + 1) * 4 : s2;
        for (int64_t j = 0; j < count; ++j) {
          float score = 0;
          for (int64_t d = 0; d < 8; ++d) score += q[d] * k[j * 8 + d];
          score *= 0.35355339f;
          const float high = larger(top, score), shift = high == -__builtin_inff() ? 0 : high;
          const float by = top == high ? 1 : expf(top - shift), weight = expf(score - shift);
          total = total * by + weight;
          for (int64_t d = 0; d < 8; ++d) out[d] = out[d] * by + weight * v[j * 8 + d];
          top = high;
        }
        for (int64_t d = 0; d < 8; ++d) y0[((b * s1 + h) * s2 + i) * 8 + d] = out[d] / (total == 0 ? 1 : total);
      }
}
