// Swallows a NaN at the end of a row.
// region: row_max()
// check: special_values
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    const float top = row_max(x, s1 > 1 ? s1 - 1 : 1);
    y0[i] = s1 > 1 && x[s1 - 1] > top ? x[s1 - 1] : top;
  }
}
