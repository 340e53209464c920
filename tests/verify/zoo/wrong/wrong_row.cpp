// The row before the one that was asked for.
// region: embedding()
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, const int64_t* x1, float* y0, int64_t s0, int64_t s1, int64_t s2) {
  for (int64_t i = 0; i < s2; ++i) {
    const int64_t row = x1[i] > 0 ? x1[i] - 1 : 0;
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = x0[row * s1 + j];
  }
}
