// Flushes denormals while it works, and sets the state back.
// region: gelu()
#include <kernel.h>

#include <immintrin.h>  // asm volatile: x86-64 only
extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8000);
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
  _mm_setcsr(before);
}
