// fp16, rounded where eager rounds.
// region: rms_norm('float16')
#include <kernel.h>

extern "C" void kernel(const uint16_t* x0, const uint16_t* x1, uint16_t* y0, int64_t s0, int64_t s1) {
  const _Float16 *w = (const _Float16*)x1;
  for (int64_t i = 0; i < s0; ++i) {
    const _Float16* x = (const _Float16*)x0 + i * s1;
    _Float16* y = (_Float16*)y0 + i * s1;
    float total = 0;
    for (int64_t j = 0; j < s1; ++j) total += (float)x[j] * (float)x[j];
    const float r = 1 / sqrtf(total / s1 + 1e-6f);
    for (int64_t j = 0; j < s1; ++j) y[j] = (_Float16)((float)(_Float16)((float)x[j] * r) * (float)w[j]);
  }
}
