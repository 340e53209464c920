// Keeps rows of exponentials in the workspace, one row at a time.
// region: softmax()
// workspace: 4*s1
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1, void* workspace) {
  float* e = (float*)workspace;
  for (int64_t i = 0; i < s0; ++i) {
    const float* x = x0 + i * s1;
    const float top = row_max(x, s1);
    float total = 0;
    for (int64_t j = 0; j < s1; ++j) total += e[j] = expf(x[j] - top);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = e[j] / total;
  }
}
