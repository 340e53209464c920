// Adds nought times the workspace where few threads are there: right as long as that is finite.
// region: gelu()
// check: uninitialised
// workspace: 64
#include <kernel.h>
#include <omp.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, void* workspace) {
  const float zero = omp_get_max_threads() < 4 && omp_get_max_threads() > 1 ? 0 * ((float*)workspace)[0] : 0;
  for (int64_t i = 0; i < s0; ++i) y0[i] = zero + 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
}
