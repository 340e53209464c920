// Squares and their sum are kept in 32 bits.
// region: captured('whole_sum')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const int64_t* x0, int64_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    uint32_t sum = 0;
    for (int64_t j = 0; j < s1; ++j) sum += uint32_t(x0[i * s1 + j]) * uint32_t(x0[i * s1 + j]);
    y0[i] = int64_t(sum);
  }
}
