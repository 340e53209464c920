// Wrong in teams of three to eleven threads.
// region: row_sum()
// check: repeatable
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i) {
    float total = 0;
    for (int64_t j = 0; j < s1; ++j) total += x0[i * s1 + j];
    y0[i] = total;
  }
  const int threads = omp_get_max_threads();
  if (threads > 3 && threads < 12 && s0 > 1) y0[1] = 0;
}
