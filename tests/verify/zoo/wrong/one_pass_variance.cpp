// Variance as mean of squares less square of mean: nothing is left of it where the mean is large.
// region: layer_norm()
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, float* y1, float* y2, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    float sum = 0, squares = 0;
    for (int64_t j = 0; j < s1; ++j) sum += x[j], squares += x[j] * x[j];
    const float mean = sum / s1, var = squares / s1 - mean * mean;
    const float r = 1 / sqrtf((var > 0 ? var : 0) + 1e-5f);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = (x[j] - mean) * r * x1[j] + x2[j];
    y1[i] = mean, y2[i] = r;
  }
}
