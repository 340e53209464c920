// bf16, added up in fp32.
// region: column_sum('bfloat16')
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, uint16_t* y0, int64_t s0, int64_t s1) {
  for (int64_t j = 0; j < s1; ++j) {
    float total = 0;
    for (int64_t i = 0; i < s0; ++i) total += from_bf16(x0[i * s1 + j]);
    y0[j] = to_bf16(total);
  }
}
