// Mean and variance of chunks of 32, merged (Chan).
// region: layer_norm()
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, float* y1, float* y2, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    float mean = 0, m2 = 0, count = 0;
    for (int64_t at = 0; at < s1; at += 32) {
      const int64_t end = at + 32 < s1 ? at + 32 : s1;
      const float n = end - at;
      float part = 0, square = 0;
      for (int64_t j = at; j < end; ++j) part += x[j];
      part /= n;
      for (int64_t j = at; j < end; ++j) square += (x[j] - part) * (x[j] - part);
      const float delta = part - mean;
      m2 += square + delta * delta * (count * n / (count + n));
      count += n;
      mean += delta * (n / count);
    }
    const float r = 1 / sqrtf(m2 / s1 + 1e-5f);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = (x[j] - mean) * r * x1[j] + x2[j];
    y1[i] = mean, y2[i] = r;
  }
}
