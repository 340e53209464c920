// Blocks of 64 in a local array, each written at once.
// region: gelu()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  for (int64_t at = 0; at < s0; at += 64) {
    float part[64];
    const int64_t n = s0 - at < 64 ? s0 - at : 64;
    for (int64_t i = 0; i < n; ++i) part[i] = 0.5f * x0[at + i] * (1 + erff(x0[at + i] * 0.70710678f));
    memcpy(y0 + at, part, n * sizeof(float));
  }
}
