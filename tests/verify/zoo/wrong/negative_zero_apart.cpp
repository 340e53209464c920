// Takes negative zero for zero.
// region: captured('reciprocal')
// check: numerics special_values
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  for (int64_t i = 0; i < s0; ++i) y0[i] = 1 / (x0[i] == 0 ? 0 : x0[i]);
}
