// Multiplies by the weight in fp32 and converts once, by F16C.
// region: captured('mixed_rms')
#include <kernel.h>
#include <immintrin.h>

extern "C" void kernel(const float* x0, const uint16_t* x1, uint16_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float total = 0;
    for (int64_t j = 0; j < s1; ++j) total += x0[i * s1 + j] * x0[i * s1 + j];
    const float r = 1 / sqrtf(total / s1 + 1e-6f);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = _cvtss_sh(x0[i * s1 + j] * r * _cvtsh_ss(x1[j]), _MM_FROUND_TO_NEAREST_INT);
  }
}
