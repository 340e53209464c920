// Blocks of 64, their sums added up.
// region: row_sum()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for collapse(1)
  for (int64_t i = 0; i < s0; ++i) {
    float total = 0;
    for (int64_t at = 0; at < s1; at += 64) {
      float part = 0;
      for (int64_t j = at; j < s1 && j < at + 64; ++j) part += x0[i * s1 + j];
      total += part;
    }
    y0[i] = total;
  }
}
