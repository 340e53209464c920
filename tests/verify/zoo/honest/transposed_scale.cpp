// Reads by columns, one expanded value.
// region: transposed_scale()
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i)
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = 2 * x0[j * s0 + i] + x1[0];
}
