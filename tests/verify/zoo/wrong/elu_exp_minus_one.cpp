// exp(x) - 1 near zero.
// region: captured('elu')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  for (int64_t i = 0; i < s0; ++i) y0[i] = x0[i] > 0 ? x0[i] : 0.7f * (expf(x0[i]) - 1);
}
