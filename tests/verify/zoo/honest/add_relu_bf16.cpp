// bf16, added in fp32.
// region: add_relu('bfloat16')
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, const uint16_t* x1, uint16_t* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0 * s1; ++i) y0[i] = to_bf16(relu(from_bf16(x0[i]) + from_bf16(x1[i])));
}
