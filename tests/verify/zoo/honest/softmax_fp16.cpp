// fp16 in and out, fp32 between.
// region: softmax('float16')
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, uint16_t* y0, int64_t s0, int64_t s1) {
  #pragma omp parallel for
  for (int64_t i = 0; i < s0; ++i) {
    const _Float16* x = (const _Float16*)x0 + i * s1;
    _Float16* y = (_Float16*)y0 + i * s1;
    float top = -INFINITY, total = 0;
    for (int64_t j = 0; j < s1; ++j) top = larger(top, (float)x[j]);
    for (int64_t j = 0; j < s1; ++j) total += expf((float)x[j] - top);
    for (int64_t j = 0; j < s1; ++j) y[j] = (_Float16)(expf((float)x[j] - top) / total);
  }
}
