// Clears the workspace for sums a thread, but not for threads beyond the eighth.
// region: layer_norm()
// check: repeatable uninitialised
// workspace: 512
#include <kernel.h>

extern "C" void kernel(const float* x0, const float* x1, const float* x2, float* y0, float* y1, float* y2, int64_t s0, int64_t s1, void* workspace) {
  float *sum = (float*)workspace, *square = sum + 64;
  for (int i = 0; i < 8; ++i) sum[i] = square[i] = 0;
  const int n = omp_get_max_threads() < 64 ? omp_get_max_threads() : 64;
  for (int64_t i = 0; i < s0; ++i) {
    float mean = 0, var = 0;
    for (int t = 0; t < n; ++t) sum[t] = t < 8 ? 0 : sum[t] * 0;
    for (int64_t j = 0; j < s1; ++j) sum[j % n] += x0[i * s1 + j];
    for (int t = 0; t < n; ++t) mean += sum[t];
    mean /= s1;
    for (int64_t j = 0; j < s1; ++j) var += (x0[i * s1 + j] - mean) * (x0[i * s1 + j] - mean);
    y1[i] = mean;
    y2[i] = 1 / sqrtf(var / s1 + 1e-5f);
    for (int64_t j = 0; j < s1; ++j) y0[i * s1 + j] = (x0[i * s1 + j] - mean) * y2[i] * x1[j] + x2[j];
  }
}
