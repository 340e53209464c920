// float64.
// region: add_relu('float64')
#include <kernel.h>

extern "C" void kernel(const double* x0, const double* x1, double* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0 * s1; ++i) { const double v = x0[i] + x1[i]; y0[i] = v < 0 ? 0 : v; }
}
