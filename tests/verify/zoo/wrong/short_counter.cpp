// Counts columns in 16 bits.
// region: captured('row_sum_wide')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float total = 0;
    for (uint16_t j = 0; j < (uint16_t)s1; ++j) total += x0[i * s1 + j];
    y0[i] = total;
  }
}
