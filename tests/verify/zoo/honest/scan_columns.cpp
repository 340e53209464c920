// Row by row: each is the row above plus its own.
// region: cumsum_outer()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i)
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = x0[i * s1 + j] + (i ? y0[(i - 1) * s1 + j] : 0);
}
