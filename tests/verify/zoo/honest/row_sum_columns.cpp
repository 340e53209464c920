// All rows at once, column by column.
// region: row_sum()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0;
  for (int64_t j = 0; j < s1; ++j)
    for (int64_t i = 0; i < s0; ++i) y0[i] += x0[i * s1 + j];
}
