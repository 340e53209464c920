// Rows in threads.
// region: greater()
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, bool* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i)
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = !(x0[i * s1 + j] <= x1[i * s1 + j]) && x0[i * s1 + j] == x0[i * s1 + j] && x1[i * s1 + j] == x1[i * s1 + j];
}
