// Adds up in bf16.
// region: row_sum('bfloat16')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, uint16_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    uint16_t total = 0;
    for (int64_t j = 0; j < s1; ++j) total = to_bf16(from_bf16(total) + from_bf16(x0[i * s1 + j]));
    y0[i] = total;
  }
}
