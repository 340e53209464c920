// No rounding between the two products, where eager rounds.
// region: rms_norm('bfloat16')
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, const uint16_t* x1, uint16_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float total = 0;
    for (int64_t j = 0; j < s1; ++j) total += from_bf16(x0[i * s1 + j]) * from_bf16(x0[i * s1 + j]);
    const float r = 1 / sqrtf(total / s1 + 1e-6f);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = to_bf16(from_bf16(x0[i * s1 + j]) * r * from_bf16(x1[j]));
  }
}
