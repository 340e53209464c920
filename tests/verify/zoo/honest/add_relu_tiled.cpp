// In tiles of rows and columns.
// region: add_relu()
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, float* y0, int64_t s0, int64_t s1) {
  for (int64_t ii = 0; ii < s0; ii += 8)
    for (int64_t jj = 0; jj < s1; jj += 32)
      for (int64_t i = ii; i < s0 && i < ii + 8; ++i)
        for (int64_t j = jj; j < s1 && j < jj + 32; ++j) y0[i * s1 + j] = relu(x0[i * s1 + j] + x1[i * s1 + j]);
}
