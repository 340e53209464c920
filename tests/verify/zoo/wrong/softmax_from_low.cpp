// The maximum begins at -1e4, thought to be low enough.
// region: softmax()
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float top = -1e4f, total = 0;
    for (int64_t j = 0; j < s1; ++j) top = larger(top, x0[i * s1 + j]);
    for (int64_t j = 0; j < s1; ++j) total += y0[i * s1 + j] = expf(x0[i * s1 + j] - top);
    const bool masked = total == 0;
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = masked ? NAN : y0[i * s1 + j] / total;
  }
}
