// tanh as a ratio of polynomials (Eigen's), good to a few ULP.
// region: captured('gelu_tanh')
#include <kernel.h>
static inline float ratio(float v) {
  if (fabsf(v) < 4e-4f || v != v) return v;
  const float x = v > 7.90531110763549805f ? 7.90531110763549805f : v < -7.90531110763549805f ? -7.90531110763549805f : v, z = x * x;
  float p = z * -2.76076847742355e-16f + 2.00018790482477e-13f;
  p = z * p + -8.60467152213735e-11f;
  p = z * p + 5.12229709037114e-08f;
  p = z * p + 1.48572235717979e-05f;
  p = z * p + 6.37261928875436e-04f;
  p = z * p + 4.89352455891786e-03f;
  float q = z * 1.19825839466702e-06f + 1.18534705686654e-04f;
  q = z * q + 2.26843463243900e-03f;
  q = z * q + 4.89352518554385e-03f;
  return fabsf(v) > 9 ? copysignf(1, v) : x * p / q;
}

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0 * s1; ++i) {
    const float x = x0[i];
    y0[i] = 0.5f * x * (1 + ratio(0.7978845608f * (x + 0.044715f * x * x * x)));
  }
}
