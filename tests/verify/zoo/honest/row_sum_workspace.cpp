// Halves of the rows in the workspace, then added.
// region: row_sum()
// workspace: 8*s0
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1, void* workspace) {
  float* part = (float*)workspace;
  #pragma omp parallel for collapse(2)
  for (int64_t i = 0; i < s0; ++i)
    for (int64_t half = 0; half < 2; ++half) {
      float total = 0;
      for (int64_t j = half ? s1 / 2 : 0; j < (half ? s1 : s1 / 2); ++j) total += x0[i * s1 + j];
      part[2 * i + half] = total;
    }
  for (int64_t i = 0; i < s0; ++i) y0[i] = part[2 * i] + part[2 * i + 1];
}
