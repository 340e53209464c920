// OpenMP tasks, one for a group of rows.
// region: row_sum()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel
  #pragma omp single
  #pragma omp taskloop grainsize(5)
  for (int64_t i = 0; i < s0; ++i) {
    float total = 0;
    #pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < s1; ++j) total += x0[i * s1 + j];
    y0[i] = total;
  }
}
