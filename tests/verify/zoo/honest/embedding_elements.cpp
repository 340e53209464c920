// Element by element, in threads.
// region: embedding()
#include <kernel.h>

extern "C" void kernel(const float* x0, const int64_t* x1, float* y0, int64_t s0, int64_t s1, int64_t s2) {
  #pragma omp parallel for collapse(2)
  for (int64_t i = 0; i < s2; ++i)
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = x0[x1[i] * s1 + j];
}
