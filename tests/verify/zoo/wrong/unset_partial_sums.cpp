// Partial sums that nobody set to zero.
// region: row_sum()
// check: uninitialised numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    volatile float part[64];
    float total = 0;
    for (int64_t j = 0; j < s1; ++j) part[j % 64] = part[j % 64] * (i ? 0 : 1) + x0[i * s1 + j];
    for (int64_t j = 0; j < 64 && j < s1; ++j) total += part[j];
    for (int64_t j = 0; j < 64; ++j) part[j] = 0;
    y0[i] = total;
  }
}
