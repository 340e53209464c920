// Rows handed out to threads as they come.
// region: softmax()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for schedule(dynamic, 3)
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    const float top = row_max(x, s1);
    float total = 0, *y = y0 + i * s1;
    for (int64_t j = s1; j-- > 0;) total += y[j] = expf(x[j] - top);
    const float scale = 1 / total;
    for (int64_t j = 0; j < s1; ++j) y[j] *= scale;
  }
}
