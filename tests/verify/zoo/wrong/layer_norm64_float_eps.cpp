// Epsilon is a float.
// region: captured('layer_norm64')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const double* x0, const double* x1, const double* x2, double* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const double* x = x0 + i * s1;
    double mean = 0, var = 0;
    for (int64_t j = 0; j < s1; ++j) mean += x[j];
    mean /= s1;
    for (int64_t j = 0; j < s1; ++j) var += (x[j] - mean) * (x[j] - mean);
    const double r = 1 / sqrt(var / s1 + 1e-5f);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = (x[j] - mean) * r * x1[j] + x2[j];
  }
}
