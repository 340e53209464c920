// Products within blocks of 8, times the product before, in double: in float one may have become 0 before an infinity comes.
// region: captured('cumprod')
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    double before = 1;
    for (int64_t from = 0; from < s1; from += 8) {
      double run = 1;
      for (int64_t j = from; j < from + 8 && j < s1; ++j) y0[i * s1 + j] = float((run *= x0[i * s1 + j]) * before);
      before *= run;
    }
  }
}
