// Cuts the low bits off instead of rounding.
// region: captured('log_softmax_bf16')
// check: numerics
#include <kernel.h>
static inline uint16_t cut(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return bits >> 16 | (f != f ? 0x40 : 0);
}

extern "C" void kernel(const uint16_t* x0, uint16_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float top = -INFINITY, total = 0;
    for (int64_t j = 0; j < s1; ++j) top = larger(top, from_bf16(x0[i * s1 + j]));
    for (int64_t j = 0; j < s1; ++j) total += expf(from_bf16(x0[i * s1 + j]) - top);
    const float l = logf(total);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = cut(from_bf16(x0[i * s1 + j]) - top - l);
  }
}
