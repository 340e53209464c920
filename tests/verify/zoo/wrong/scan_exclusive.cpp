// The sum of the elements before, without the element itself.
// region: cumsum()
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float sum = 0;
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = sum, sum += x0[i * s1 + j];
  }
}
