// Leaves the last element of an odd length out.
// region: add_relu()
// check: writes_all
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i + 1 < s0 * s1; i += 2) y0[i] = relu(x0[i] + x1[i]), y0[i + 1] = relu(x0[i + 1] + x1[i + 1]);
}
