// An exponential of its own, good to about 3 ULP, and libm nowhere.
// region: softmax()
#include <kernel.h>
static inline float own_exp(float x) {
  if (!(x > -87)) return x != x ? x : 0;
  const float n = __builtin_rintf(x * 1.44269504f), r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const uint32_t bits = (uint32_t)((int)n + 127) << 23;
  float scale;
  memcpy(&scale, &bits, 4);
  return (p * r * r + r + 1) * scale;
}

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    const float top = row_max(x, s1);
    float total = 0, *y = y0 + i * s1;
    for (int64_t j = 0; j < s1; ++j) total += y[j] = own_exp(x[j] - top);
    const float r = 1 / total;
    for (int64_t j = 0; j < s1; ++j) y[j] *= r;
  }
}
