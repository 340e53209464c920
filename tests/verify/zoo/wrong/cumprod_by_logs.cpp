// The exponential of a sum of logarithms, with the sign apart.
// region: captured('cumprod')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float run = 0, sign = 1;
    for (int64_t j = 0; j < s1; ++j) {
      const float x = x0[i * s1 + j];
      sign *= x < 0 ? -1 : 1;
      run += logf(fabsf(x));
      y0[i * s1 + j] = sign * expf(run);
    }
  }
}
