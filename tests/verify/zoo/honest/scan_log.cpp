// log(exp(a) + exp(b)), one after the other, as eager does but in float.
// region: logcumsumexp()
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1) {
  for (int64_t i = 0; i < s0; ++i) {
    float sum = -INFINITY;
    for (int64_t j = 0; j < s1; ++j) {
      const float x = x0[i * s1 + j], high = larger(sum, x), low = sum < x ? sum : x;
      sum = x != x || low == high ? (x != x ? x : high + (high - high == 0 ? 0.69314718f : 0)) : high + log1pf(expf(low - high));
      y0[i * s1 + j] = sum;
    }
  }
}
