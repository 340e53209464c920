// Unsigned, which wraps.
// region: captured('whole_sum')
#include <kernel.h>

extern "C" void kernel(const int64_t* x0, int64_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    uint64_t sum = 0;
    for (int64_t j = 0; j < s1; ++j) sum += uint64_t(x0[i * s1 + j]) * uint64_t(x0[i * s1 + j]);
    y0[i] = int64_t(sum);
  }
}
