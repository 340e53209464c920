// Maximum and sum in one pass.
// region: cross_entropy()
#include <kernel.h>

extern "C" void kernel(const float* x0, const int64_t* x1, float* y0, int64_t s0, int64_t s1) {
  double total = 0;
  int64_t count = 0;
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    double top = x[0], sum = 1;
    for (int64_t j = 1; j < s1; ++j) {
      if (x[j] > top) sum *= exp(top - x[j]), top = x[j];
      sum += exp(x[j] - top);
    }
    if (x1[i] == -100) continue;
    total += log(sum) + top - x[x1[i]];
    ++count;
  }
  y0[0] = (float)(total / (count ? count : 1));
}
