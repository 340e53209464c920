// Partial sums of each thread, added atomically to a cleared output.
// region: column_sum()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel
  {
    #pragma omp for
    for (int64_t j = 0; j < s1; ++j) y0[j] = 0;
    float part[64];
    for (int64_t from = 0; from < s1; from += 64) {
      const int64_t n = s1 - from < 64 ? s1 - from : 64;
      for (int64_t j = 0; j < n; ++j) part[j] = 0;
      #pragma omp for nowait
      for (int64_t i = 0; i < s0; ++i)
        for (int64_t j = 0; j < n; ++j) part[j] += x0[i * s1 + from + j];
      for (int64_t j = 0; j < n; ++j)
        #pragma omp atomic
        y0[from + j] += part[j];
    }
  }
}
