// Works on every second row.
// region: softmax()
// check: writes_all
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; i += 2) {
    const float* x = x0 + i * s1;
    const float top = row_max(x, s1);
    float total = 0, *y = y0 + i * s1;
    for (int64_t j = 0; j < s1; ++j) total += y[j] = expf(x[j] - top);
    for (int64_t j = 0; j < s1; ++j) y[j] /= total;
  }
}
