// fp16 in and out.
// region: gelu('float16')
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, uint16_t* y0, int64_t s0) {
  for (int64_t i = 0; i < s0; ++i) {
    const float x = (float)((const _Float16*)x0)[i];
    ((_Float16*)y0)[i] = (_Float16)(0.5f * x * (1 + erff(x * 0.70710678f)));
  }
}
