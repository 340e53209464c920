// Expects the workspace to be zero.
// region: column_sum()
// check: uninitialised
// workspace: 4*s1
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1, void* workspace) {
  float* total = (float*)workspace;
  for (int64_t i = 0; i < s0; ++i)
    for (int64_t j = 0; j < s1; ++j) total[j] += x0[i * s1 + j];
  for (int64_t j = 0; j < s1; ++j) y0[j] = total[j];
}
