// Every thread sets the same flag.
// region: gelu()
// check: races
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  int negative = 0;
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i) {
    if (x0[i] < 0) negative = 1;
    y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
  }
  volatile int sink = negative;
}
