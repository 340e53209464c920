// As the exponential of x - log(sum exp).
// region: softmax()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    const double top = row_max(x, s1);
    double total = 0;
    for (int64_t j = 0; j < s1; ++j) total += exp(x[j] - top);
    const double shift = top + log(total);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = (float)exp(x[j] - shift);
  }
}
