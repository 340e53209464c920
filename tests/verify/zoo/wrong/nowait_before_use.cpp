// A team computes a row's exponentials, and divides before all are there: a barrier is missing.
// region: softmax()
// check: repeatable numerics uninitialised
// workspace: 4*s0
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1, void* workspace) {
  float* total = (float*)workspace;
  #pragma omp parallel
  {
    #pragma omp for nowait
    for (int64_t i = 0; i < s0; ++i) {
      const float top = row_max(x0 + i * s1, s1);
      float sum = 0;
      for (int64_t j = 0; j < s1; ++j) sum += y0[i * s1 + j] = expf(x0[i * s1 + j] - top);
      total[i] = sum;
    }
    #pragma omp for schedule(static, 1)
    for (int64_t i = 0; i < s0; ++i)
      for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] /= total[i];
  }
}
