// Looks at the sign of the difference.
// region: captured('less_each')
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0 * s1; ++i) y0[i] = x0[i] - x1[i] < 0 || (x0[i] == -INFINITY && x1[i] > -INFINITY) ? x0[i] + x0[i] : x1[i];
}
