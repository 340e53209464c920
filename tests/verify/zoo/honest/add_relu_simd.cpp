// Vectorised by the compiler.
// region: add_relu()
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, float* y0, int64_t s0, int64_t s1) {
  const int64_t n = s0 * s1;
  #pragma omp simd
  for (int64_t i = 0; i < n; ++i) { const float v = x0[i] + x1[i]; y0[i] = v < 0 ? 0 : v; }
}
