// bf16 in and out.
// region: layer_norm('bfloat16')
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, const uint16_t* x1, const uint16_t* x2, uint16_t* y0, float* y1, float* y2, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const uint16_t* x = x0 + i * s1;
    float mean = 0, var = 0;
    for (int64_t j = 0; j < s1; ++j) mean += from_bf16(x[j]);
    mean /= s1;
    for (int64_t j = 0; j < s1; ++j) var += (from_bf16(x[j]) - mean) * (from_bf16(x[j]) - mean);
    const float r = 1 / sqrtf(var / s1 + 1e-5f);
    for (int64_t j = 0; j < s1; ++j)
      y0[i * s1 + j] = to_bf16((from_bf16(x[j]) - mean) * r * from_bf16(x1[j]) + from_bf16(x2[j]));
    y1[i] = mean, y2[i] = r;
  }
}
