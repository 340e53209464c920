// Marks the first of equal maxima only.
// region: captured('first_max')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    const float top = row_max(x, s1);
    bool seen = false;
    for (int64_t j = 0; j < s1; ++j) {
      y0[i * s1 + j] = x[j] == top && !seen;
      seen = seen || x[j] == top;
    }
  }
}
