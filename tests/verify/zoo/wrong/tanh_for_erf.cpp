// The tanh approximation where erf was asked for.
// region: gelu()
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  for (int64_t i = 0; i < s0; ++i) {
    const float x = x0[i];
    y0[i] = 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
  }
}
