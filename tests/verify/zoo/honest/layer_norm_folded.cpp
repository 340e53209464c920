// The mean folded into a shift: (x r - mean r) w + b. Not fused: of a row of one value, x r - mean r is the rounding error of
// mean r otherwise, and a huge one where x is huge.
// region: layer_norm()
#include <kernel.h>

__attribute__((optimize("fp-contract=off"))) static void shifted(const float* x, const float* w, const float* b, float* y, int64_t n, float mean, float r) {
  for (int64_t j = 0; j < n; ++j) y[j] = (x[j] * r - mean * r) * w[j] + b[j];
}

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, float* y1, float* y2, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    float mean = 0, var = 0;
    for (int64_t j = 0; j < s1; ++j) mean += x[j];
    mean /= s1;
    for (int64_t j = 0; j < s1; ++j) var += (x[j] - mean) * (x[j] - mean);
    const float r = 1 / sqrtf(var / s1 + 1e-5f);
    shifted(x, x1, x2, y0 + i * s1, s1, mean, r);
    y1[i] = mean, y2[i] = r;
  }
}
