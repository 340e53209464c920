// A scratch row that all threads share.
// region: row_sum()
// check: races
// workspace: 4*s1
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1, void* workspace) {
  float* row = (float*)workspace;
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i) {
    float total = 0;
    for (int64_t j = 0; j < s1; ++j) row[j] = x0[i * s1 + j];
    for (int64_t j = 0; j < s1; ++j) total += row[j];
    y0[i] = total;
  }
}
