// Adds and takes away 1.5 * 2^23.
// region: captured('round_half')
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  for (int64_t i = 0; i < s0; ++i) {
    volatile float t = fabsf(x0[i]) + 8388608.0f;
    y0[i] = fabsf(x0[i]) < 8388608 ? copysignf(t - 8388608.0f, x0[i]) : x0[i];
  }
}
