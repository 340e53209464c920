// tanh(log(1 + e)) = e (e + 2) / (e (e + 2) + 2), with one exponential.
// region: captured('mish')
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  #pragma omp parallel for simd
  for (int64_t i = 0; i < s0; ++i) {
    const float x = x0[i], e = expf(x > 20 ? 20 : x), n = e * (e + 2);
    y0[i] = x > 20 ? x : x * (n / (n + 2));
  }
}
