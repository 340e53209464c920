// Eight partial sums; converted once.
// region: captured('log_softmax_bf16')
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, uint16_t* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i) {
    float top = -INFINITY, part[8] = {};
    for (int64_t j = 0; j < s1; ++j) top = larger(top, from_bf16(x0[i * s1 + j]));
    for (int64_t j = 0; j < s1; ++j) part[j % 8] += expf(from_bf16(x0[i * s1 + j]) - top);
    const float log_total = logf(((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7])));
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = to_bf16(from_bf16(x0[i * s1 + j]) - top - log_total);
  }
}
