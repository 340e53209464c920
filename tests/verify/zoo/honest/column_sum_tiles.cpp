// Tiles of 32 columns in registers.
// region: column_sum()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t at = 0; at < s1; at += 32) {
    float part[32] = {0};
    const int64_t n = s1 - at < 32 ? s1 - at : 32;
    for (int64_t i = 0; i < s0; ++i)
      for (int64_t j = 0; j < n; ++j) part[j] += x0[i * s1 + at + j];
    for (int64_t j = 0; j < n; ++j) y0[at + j] = part[j];
  }
}
