// Eight maxima side by side.
// region: row_max()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float top[8];
    for (int k = 0; k < 8; ++k) top[k] = x0[i * s1];
    for (int64_t j = 0; j < s1; ++j) top[j % 8] = larger(top[j % 8], x0[i * s1 + j]);
    for (int k = 1; k < 8; ++k) top[0] = larger(top[0], top[k]);
    y0[i] = top[0];
  }
}
