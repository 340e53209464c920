// The maximum begins at zero: rows far below it have no sum left.
// region: softmax()
// check: numerics special_values
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float top = 0, total = 0;
    for (int64_t j = 0; j < s1; ++j) top = larger(top, x0[i * s1 + j]);
    for (int64_t j = 0; j < s1; ++j) total += y0[i * s1 + j] = expf(x0[i * s1 + j] - top);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] /= total;
  }
}
