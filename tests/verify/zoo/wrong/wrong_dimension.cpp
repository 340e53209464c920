// Softmax over the columns.
// region: softmax()
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t j = 0; j < s1; ++j) {
    float top = x0[j], total = 0;
    for (int64_t i = 0; i < s0; ++i) top = fmaxf(top, x0[i * s1 + j]);
    for (int64_t i = 0; i < s0; ++i) total += y0[i * s1 + j] = expf(x0[i * s1 + j] - top);
    for (int64_t i = 0; i < s0; ++i) y0[i * s1 + j] /= total;
  }
}
