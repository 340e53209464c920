// Multiplies by a sixth.
// region: captured('hardswish_bf16')
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, uint16_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0 * s1; ++i) {
    const float x = from_bf16(x0[i]), t = x + 3, c = t < 0 ? 0 : t > 6 ? 6 : t;
    y0[i] = to_bf16(x * c * (1 / 6.0f));
  }
}
