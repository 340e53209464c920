// Eight partial sums in the workspace, cleared first.
// region: column_sum()
// workspace: 32*s1
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1, void* workspace) {
  float* part = (float*)workspace;
  for (int64_t k = 0; k < 8 * s1; ++k) part[k] = 0;
  for (int64_t i = 0; i < s0; ++i)
    for (int64_t j = 0; j < s1; ++j) part[i % 8 * s1 + j] += x0[i * s1 + j];
  for (int64_t j = 0; j < s1; ++j) {
    y0[j] = 0;
    for (int64_t k = 0; k < 8; ++k) y0[j] += part[k * s1 + j];
  }
}
