// Log-sum-exp less the label's logit.
// region: captured('ce_each')
#include <kernel.h>

extern "C" void kernel(const float* x0, const int64_t* x1, float* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for schedule(dynamic, 3)
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    const float top = row_max(x, s1);
    float total = 0;
    for (int64_t j = 0; j < s1; ++j) total += expf(x[j] - top);
    y0[i] = x1[i] == -100 ? 0 : logf(total) + top - x[x1[i]];
  }
}
