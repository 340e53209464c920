// Compares with the maximum.
// region: captured('first_max')
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const float top = row_max(x0 + i * s1, s1);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = x0[i * s1 + j] == top;
  }
}
