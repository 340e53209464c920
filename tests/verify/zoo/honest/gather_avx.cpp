// The processor's own gathers, eight at a time.
// region: captured('gather')
#include <kernel.h>
#include <immintrin.h>

extern "C" void kernel(const float* x0, const int64_t* x1, float* y0, int64_t s0, int64_t s1, int64_t s2) {
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    int64_t j = 0;
    for (; j + 4 <= s2; j += 4)
      _mm_storeu_ps(y0 + i * s2 + j, _mm256_i64gather_ps(x, _mm256_loadu_si256((const __m256i*)(x1 + i * s2 + j)), 4));
    for (; j < s2; ++j) y0[i * s2 + j] = x[x1[i * s2 + j]];
  }
}
