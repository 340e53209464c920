// Fused multiply-adds, the moments by their differences.
// region: captured('adam')
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, const float* x3, float* y0, float* y1, float* y2, int64_t s0) {
  #pragma omp parallel for simd
  for (int64_t i = 0; i < s0; ++i) {
    const float g = x1[i], m = fmaf(0.1f, g, 0.9f * x2[i]), old = x3[i] * x3[i], v = fmaf(0.001f, g * g, 0.999f * old);
    y0[i] = x0[i] - 0.01f * (m / (sqrtf(v) + 1e-8f));
    y1[i] = m;
    y2[i] = v;
  }
}
