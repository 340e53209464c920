// The processor's rough reciprocal root and one step of Newton.
// region: captured('normalize')
#include <kernel.h>
#include <immintrin.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float s = 0;
    for (int64_t j = 0; j < s1; ++j) s += x0[i * s1 + j] * x0[i * s1 + j];
    float r;
    if (s > 1e-12f && s < 1e30f) {
      r = _mm_cvtss_f32(_mm_rsqrt_ss(_mm_set_ss(s)));
      r = r * (1.5f - 0.5f * s * r * r);
      r = r * (1.5f - 0.5f * s * r * r);
    } else {
      const float norm = sqrtf(s);
      r = 1 / (norm < 1e-6f ? 1e-6f : norm);
    }
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = x0[i * s1 + j] * r;
  }
}
