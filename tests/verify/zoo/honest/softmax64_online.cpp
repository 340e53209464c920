// One pass for maximum and sum, in double.
// region: captured('softmax64')
#include <kernel.h>

extern "C" void kernel(const double* x0, double* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i) {
    const double* x = x0 + i * s1;
    double top = -INFINITY, total = 0;
    for (int64_t j = 0; j < s1; ++j) {
      const double high = x[j] != x[j] || x[j] > top ? x[j] : top;
      if (high == -INFINITY) continue;
      total = total * (top == high ? 1 : exp(top - high)) + (x[j] == high && high != INFINITY ? 1 : exp(x[j] - high));
      top = high;
    }
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = exp(x[j] - top) / total;
  }
}
