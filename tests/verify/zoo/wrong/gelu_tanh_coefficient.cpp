// 0.0447 for 0.044715.
// region: captured('gelu_tanh')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0 * s1; ++i) {
    const float x = x0[i];
    y0[i] = 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.0447f * x * x * x)));
  }
}
