// Each element gathers from the windows that hold it.
// region: captured('pool_gradient')
#include <kernel.h>

extern "C" void kernel(const int8_t* x0, const float* x1, float* y0) {
  for (int64_t n = 0; n < 24; ++n)
    for (int64_t h = 0; h < 12; ++h)
      for (int64_t w = 0; w < 20; ++w) {
        float sum = 0;
        for (int64_t r = h / 2; r <= (h + 1) / 2; ++r)
          for (int64_t c = w / 2; c <= (w + 1) / 2; ++c) {
            const int64_t p = h + 1 - 2 * r, q = w + 1 - 2 * c;
            if (r < 6 && c < 10 && p < 3 && q < 3 && x0[(n * 6 + r) * 10 + c] == p * 3 + q) sum += x1[(n * 6 + r) * 10 + c];
          }
        y0[(n * 12 + h) * 20 + w] = sum;
      }
}
