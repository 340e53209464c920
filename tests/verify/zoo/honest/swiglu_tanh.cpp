// The sigmoid as a hyperbolic tangent, where its terms do not cancel.
// region: swiglu()
#include <kernel.h>

static inline double sigmoid(double a) { return a > -4 ? 0.5 + 0.5 * tanh(0.5 * a) : exp(a) / (1 + exp(a)); }

extern "C" void kernel(const uint16_t* x0, const uint16_t* x1, uint16_t* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i)
    for (int64_t j = 0; j < s1; ++j) {
      const float a = from_bf16(x0[i * 2 * s1 + j]), b = from_bf16(x1[i * 2 * s1 + j]);
      y0[i * s1 + j] = to_bf16((float)(a * sigmoid(a)) * b);
    }
}
