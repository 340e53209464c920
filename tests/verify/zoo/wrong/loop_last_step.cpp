// The last state is the one before the last.
// region: gated_loop()
// check: numerics
#include <kernel.h>

static void step(const float* x, const float* w, const float* h, float* next) {
  for (int j = 0; j < 8; ++j) {
    float z = x[8 + j];
    for (int k = 0; k < 8; ++k) z += h[k] * w[k * 8 + j];
    const float f = 1 / (1 + expf(-x[j]));
    next[j] = f * h[j] + (1 - f) * tanhf(z);
  }
}

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, float* y1, int64_t s0) {
  for (int b = 0; b < 3; ++b) {
    const float *h = x1 + b * 8, *before = h;
    for (int64_t t = 0; t < s0; ++t) before = h, step(x0 + (b * s0 + t) * 16, x2, h, y0 + (b * s0 + t) * 8), h = y0 + (b * s0 + t) * 8;
    memcpy(y1 + b * 8, before, 32);
  }
}
