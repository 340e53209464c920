// One factor after the other, in double as eager has it: in float a product may have become 0 before an infinity comes.
// region: captured('cumprod')
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    double run = 1;
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = float(run *= x0[i * s1 + j]);
  }
}
