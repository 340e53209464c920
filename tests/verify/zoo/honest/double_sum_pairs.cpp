// float64, pairwise.
// region: double_sum()
#include <kernel.h>

static double pairs(const double* x, int64_t n) { return n < 9 ? (n ? x[0] + pairs(x + 1, n - 1) : 0) : pairs(x, n / 2) + pairs(x + n / 2, n - n / 2); }

extern "C" void kernel(const double* x0, double* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) y0[i] = pairs(x0 + i * s1, s1);
}
