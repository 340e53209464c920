// One side of the addition takes the lock, the other does not.
// region: column_sum()
// check: races
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t j = 0; j < s1; ++j) y0[j] = 0;
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i)
    for (int64_t j = 0; j < s1; ++j) {
      if (i % 2) {
        #pragma omp critical
        y0[j] += x0[i * s1 + j];
      } else {
        y0[j] += x0[i * s1 + j];
      }
    }
}
