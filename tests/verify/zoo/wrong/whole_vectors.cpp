// Rounds the length up to whole vectors of 8.
// region: add_relu()
// check: bounds
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0 * s1; i += 8)
    for (int64_t k = i; k < i + 8; ++k) y0[k] = relu(x0[k] + x1[k]);
}
