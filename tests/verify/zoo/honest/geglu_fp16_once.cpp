// Converts once.
// region: captured('geglu_fp16')
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, const uint16_t* x1, uint16_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0 * s1; ++i) {
    const float a = (float)((const _Float16*)x0)[i], b = (float)((const _Float16*)x1)[i];
    ((_Float16*)y0)[i] = (_Float16)(0.5f * a * (1 + erff(a * 0.70710678f)) * b);
  }
}
