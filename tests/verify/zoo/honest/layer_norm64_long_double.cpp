// Sums in long double.
// region: captured('layer_norm64')
#include <kernel.h>

extern "C" void kernel(const double* x0, const double* x1, const double* x2, double* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const double* x = x0 + i * s1;
    long double mean = 0, var = 0;
    for (int64_t j = 0; j < s1; ++j) mean += x[j];
    mean /= s1;
    for (int64_t j = 0; j < s1; ++j) var += (x[j] - mean) * (x[j] - mean);
    const double r = 1 / sqrt((double)(var / s1) + 1e-5);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = (double)(x[j] - mean) * r * x1[j] + x2[j];
  }
}
