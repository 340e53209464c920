// Wrong in one row.
// region: softmax()
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    const float top = row_max(x, s1);
    float total = i == 37 ? 1e-2f : 0, *y = y0 + i * s1;
    for (int64_t j = 0; j < s1; ++j) total += y[j] = expf(x[j] - top);
    for (int64_t j = 0; j < s1; ++j) y[j] /= total;
  }
}
