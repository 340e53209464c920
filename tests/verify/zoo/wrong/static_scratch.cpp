// Right as long as one thread calls it.
// region: row_sum()
// check: state
#include <kernel.h>
static float squares[1 << 16];

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float total = 0;
    for (int64_t j = 0; j < s1; ++j) squares[j & 65535] = x0[i * s1 + j];
    for (int64_t j = 0; j < s1; ++j) total += squares[j & 65535];
    y0[i] = total;
  }
}
