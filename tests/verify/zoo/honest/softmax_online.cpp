// Maximum and sum in one pass, rescaled as the maximum grows.
// region: softmax()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    float top = -INFINITY, total = 0;
    for (int64_t j = 0; j < s1; ++j) {
      const float larger_one = larger(top, x[j]);
      if (larger_one == -INFINITY) continue;
      total = total * (top == larger_one ? 1 : expf(top - larger_one)) + expf(x[j] - larger_one);
      top = larger_one;
    }
    const float inverse = 1 / total;
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = expf(x[j] - top) * inverse;
  }
}
