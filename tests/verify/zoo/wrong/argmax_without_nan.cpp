// NaN is never the greatest.
// region: captured('argmax')
// check: special_values
#include <kernel.h>

extern "C" void kernel(const float* x0, int64_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    int64_t at = 0;
    for (int64_t j = 0; j < s1; ++j)
      if (x[j] > x[at] || x[at] != x[at]) at = j;
    y0[i] = at;
  }
}
