// Probabilities below 2e-4 are given as zero.
// region: softmax('float16')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, uint16_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const _Float16* x = (const _Float16*)x0 + i * s1;
    float top = -INFINITY, total = 0;
    for (int64_t j = 0; j < s1; ++j) top = larger(top, (float)x[j]);
    for (int64_t j = 0; j < s1; ++j) total += expf((float)x[j] - top);
    for (int64_t j = 0; j < s1; ++j) {
      const float p = expf((float)x[j] - top) / total;
      ((_Float16*)y0)[i * s1 + j] = (_Float16)(p < 2e-4f ? 0 : p);
    }
  }
}
