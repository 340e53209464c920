// The gate lets through what it should hold back.
// region: gated_loop()
// check: numerics
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, float* y1, int64_t s0) {
  for (int b = 0; b < 3; ++b) {
    const float* h = x1 + b * 8;
    for (int64_t t = 0; t < s0; ++t) {
      const float* x = x0 + (b * s0 + t) * 16;
      for (int j = 0; j < 8; ++j) {
        float z = x[8 + j];
        for (int k = 0; k < 8; ++k) z += h[k] * x2[k * 8 + j];
        const float f = 1 / (1 + expf(-x[j]));
        y0[(b * s0 + t) * 8 + j] = (1 - f) * h[j] + f * tanhf(z);
      }
      h = y0 + (b * s0 + t) * 8;
    }
    memcpy(y1 + b * 8, h, 32);
  }
}
