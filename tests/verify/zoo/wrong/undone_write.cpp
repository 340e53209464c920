// Puts a sentinel into its input and takes it away again.
// region: row_max()
// check: inputs_unchanged
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    volatile float* x = const_cast<float*>(x0 + i * s1);
    const float last = x[s1 - 1];
    const float top = row_max(x0 + i * s1, s1);
    x[s1 - 1] = INFINITY;
    x[s1 - 1] = last;
    y0[i] = top;
  }
}
