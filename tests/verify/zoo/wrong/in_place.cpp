// Subtracts the maximum in place.
// region: softmax()
// check: inputs_unchanged
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    float* x_ = const_cast<float*>(x);
    const float top = row_max(x, s1);
    float total = 0;
    for (int64_t j = 0; j < s1; ++j) x_[j] -= top;
    for (int64_t j = 0; j < s1; ++j) total += y0[i * s1 + j] = expf(x_[j]);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] /= total;
  }
}
