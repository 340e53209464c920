// Goes on to the next multiple of 32 bytes, without a look at where the output ends.
// region: add_relu()
// check: addresses bounds
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, float* y0, int64_t s0, int64_t s1) {
  const int64_t n = s0 * s1;
  int64_t i = 0;
  for (; (uintptr_t)(y0 + i) & 31; ++i) y0[i] = relu(x0[i] + x1[i]);
  for (; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; ++k) y0[i + k] = relu(x0[i + k] + x1[i + k]);
  for (; i < n; ++i) y0[i] = relu(x0[i] + x1[i]);
}
