// From the last element to the first, by one thread of a team.
// region: gelu()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  #pragma omp parallel
  #pragma omp single
  for (int64_t i = s0; i-- > 0;) y0[i] = x0[i] * 0.5f * (erff(x0[i] * 0.70710678f) + 1);
}
