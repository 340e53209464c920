// Two loops for the remainder that miss it where it is eleven of sixteen.
// region: row_sum()
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const int64_t n = s1 % 16 == 11 ? s1 - 3 : s1;
    float total = 0;
    for (int64_t j = 0; j < n; ++j) total += x0[i * s1 + j];
    y0[i] = total;
  }
}
