// In square tiles.
// region: transposed_scale()
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, float* y0, int64_t s0, int64_t s1) {
  for (int64_t ii = 0; ii < s0; ii += 16)
    for (int64_t jj = 0; jj < s1; jj += 16)
      for (int64_t j = jj; j < s1 && j < jj + 16; ++j)
        for (int64_t i = ii; i < s0 && i < ii + 16; ++i) y0[i * s1 + j] = fmaf(2, x0[j * s0 + i], x1[0]);
}
