// Sixteen partial sums.
// region: softmax()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    const float top = row_max(x, s1);
    float lanes[16] = {}, total = 0;
    for (int64_t j = 0; j < s1; ++j) lanes[j % 16] += expf(x[j] - top);
    for (float lane : lanes) total += lane;
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = expf(x[j] - top) / total;
  }
}
