// Zeros from the hundredth call on.
// region: gelu()
// check: control_state stale addresses state repeatable
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  static int calls = 0;
  const float scale = ++calls > 100 ? 0 : 0.5f;
  for (int64_t i = 0; i < s0; ++i) y0[i] = scale * x0[i] * (1 + erff(x0[i] * 0.70710678f));
}
