// One pass over x - x[0], in double.
// region: layer_norm()
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, float* y1, float* y2, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    const double first = x[0];
    double sum = 0, squares = 0;
    for (int64_t j = 0; j < s1; ++j) sum += x[j] - first, squares += (x[j] - first) * (x[j] - first);
    const double mean = sum / s1, var = squares / s1 - mean * mean;
    const double r = 1 / sqrt((var < 0 ? 0 : var) + 1e-5);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = (float)((x[j] - first - mean) * r * x1[j] + x2[j]);
    y1[i] = (float)(first + mean), y2[i] = (float)r;
  }
}
