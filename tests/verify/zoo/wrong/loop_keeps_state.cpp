// The state stays between calls.
// region: gated_loop()
// check: uninitialised numerics state stale
#include <kernel.h>

static float h[3][8];
static bool begun;

static void step(const float* x, const float* w, const float* h, float* next) {
  for (int j = 0; j < 8; ++j) {
    float z = x[8 + j];
    for (int k = 0; k < 8; ++k) z += h[k] * w[k * 8 + j];
    const float f = 1 / (1 + expf(-x[j]));
    next[j] = f * h[j] + (1 - f) * tanhf(z);
  }
}

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, float* y1, int64_t s0) {
  if (!begun) memcpy(h, x1, sizeof h), begun = true;
  for (int b = 0; b < 3; ++b) {
    for (int64_t t = 0; t < s0; ++t) {
      float next[8];
      step(x0 + (b * s0 + t) * 16, x2, h[b], next);
      memcpy(h[b], next, 32), memcpy(y0 + (b * s0 + t) * 8, next, 32);
    }
    memcpy(y1 + b * 8, h[b], 32);
  }
}
