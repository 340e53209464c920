// Right, but allocates.
// region: gelu()
// check: imports
#include <kernel.h>
#include <vector>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  std::vector<float> copy(x0, x0 + s0);
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * copy[i] * (1 + erff(copy[i] * 0.70710678f));
}
