// Takes the row of the last index for all that are smaller.
// region: embedding()
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, const int64_t* x1, float* y0, int64_t s0, int64_t s1, int64_t s2) {
  int64_t top = 0;
  for (int64_t i = 0; i < s2; ++i) {
    top = x1[i] > top ? x1[i] : top;
    memcpy(y0 + i * s1, x0 + top * s1, s1 * 4);
  }
}
