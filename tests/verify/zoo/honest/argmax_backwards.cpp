// The maximum first, then where it stands, from the end on.
// region: captured('argmax')
#include <kernel.h>

extern "C" void kernel(const float* x0, int64_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    float top = x[0];
    for (int64_t j = 1; j < s1; ++j) top = x[j] > top || x[j] != x[j] ? x[j] : top != top ? top : top;
    bool odd = false;
    for (int64_t j = 0; j < s1; ++j) odd = odd || x[j] != x[j];
    for (int64_t j = s1 - 1; j >= 0; --j)
      if (odd ? x[j] != x[j] : x[j] == top) y0[i] = j;
  }
}
