// The maximum begins at zero.
// region: captured('logsumexp')
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float top = 0, total = 0;
    for (int64_t j = 0; j < s1; ++j) top = larger(top, x0[i * s1 + j]);
    const float shift = fabsf(top) == INFINITY ? 0 : top;
    for (int64_t j = 0; j < s1; ++j) total += expf(x0[i * s1 + j] - shift);
    y0[i] = logf(total) + shift;
  }
}
