// fp16 rows added up in fp32.
// region: row_sum('float16')
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, uint16_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float total = 0;
    for (int64_t j = 0; j < s1; ++j) total += (float)((const _Float16*)x0)[i * s1 + j];
    ((_Float16*)y0)[i] = (_Float16)total;
  }
}
