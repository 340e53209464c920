// One loop after the other.
// region: rms_norm()
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, float* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    float total = 0;
    for (int64_t j = 0; j < s1; ++j) total += x[j] * x[j];
    const float r = 1 / sqrtf(total / s1 + 1e-6f);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = x[j] * r * x1[j];
  }
}
