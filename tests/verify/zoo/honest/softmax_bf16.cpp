// bf16 in and out, fp32 between.
// region: softmax('bfloat16')
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, uint16_t* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i) {
    const uint16_t* h = x0 + i * s1;
    float top = -INFINITY;
    for (int64_t j = 0; j < s1; ++j) top = larger(top, from_bf16(h[j]));
    float total = 0;
    for (int64_t j = 0; j < s1; ++j) total += expf(from_bf16(h[j]) - top);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = to_bf16(expf(from_bf16(h[j]) - top) / total);
  }
}
