// Counts with a plain variable.
// region: row_max()
// check: races
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  int64_t done = 0;
  #pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < s0; ++i) y0[i] = row_max(x0 + i * s1, s1), ++done;
  volatile int64_t sink = done;
}
