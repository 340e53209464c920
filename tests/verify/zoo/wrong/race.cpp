// All threads add to the same results.
// region: row_sum()
// check: numerics special_values uninitialised control_state stale addresses state repeatable races
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0;
  volatile float* y = y0;
  #pragma omp parallel for
  for (int64_t j = 0; j < s1; ++j)
    for (int64_t i = 0; i < s0; ++i) {
      const float before = y[i];
      for (volatile int wait = 0; wait < 20; wait = wait + 1) {}
      y[i] = before + x0[i * s1 + j];
    }
}
