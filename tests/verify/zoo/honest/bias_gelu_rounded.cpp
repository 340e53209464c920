// Rounds where eager rounds.
// region: bias_gelu()
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, const uint16_t* x1, uint16_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i)
    for (int64_t j = 0; j < s1; ++j) {
      const float v = round_bf16(from_bf16(x0[i * s1 + j]) + from_bf16(x1[j]));
      const float cubed = round_bf16(round_bf16(v * v) * v);
      const float inner = round_bf16(round_bf16(v + round_bf16(cubed * 0.044715f)) * 0.79788456f);
      y0[i * s1 + j] = to_bf16(round_bf16(v * 0.5f) * round_bf16(round_bf16(tanhf(inner)) + 1));
    }
}
