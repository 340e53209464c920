// Reads what another thread writes in the loop before, which nobody waits for.
// region: gelu()
// check: races
// workspace: 4*s0
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, void* workspace) {
  float* e = (float*)workspace;
  #pragma omp parallel
  {
    #pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < s0; ++i) e[i] = 1 + erff(x0[i] * 0.70710678f);
    #pragma omp for schedule(static)
    for (int64_t i = 0; i < s0; ++i) y0[s0 - 1 - i] = 0.5f * x0[s0 - 1 - i] * e[s0 - 1 - i];
  }
}
