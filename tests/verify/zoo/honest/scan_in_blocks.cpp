// Sums within blocks of 64, added to what came before the block.
// region: cumsum()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float before = 0;
    for (int64_t b = 0; b < s1; b += 64) {
      float sum = 0;
      for (int64_t j = b; j < (b + 64 < s1 ? b + 64 : s1); ++j) sum += x0[i * s1 + j], y0[i * s1 + j] = before + sum;
      before += sum;
    }
  }
}
