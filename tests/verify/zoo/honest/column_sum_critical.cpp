// Each thread adds its own rows up, then all into the output, one thread at a time.
// region: column_sum()
// workspace: 256*s1
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0, int64_t s1, void* workspace) {
  for (int64_t j = 0; j < s1; ++j) y0[j] = 0;
  #pragma omp parallel
  {
    float* mine = (float*)workspace + omp_get_thread_num() % 64 * s1;
    const bool works = omp_get_thread_num() < 64;
    if (works) {
      for (int64_t j = 0; j < s1; ++j) mine[j] = 0;
      const int team = omp_get_num_threads() < 64 ? omp_get_num_threads() : 64;
      for (int64_t i = omp_get_thread_num(); i < s0; i += team)
        for (int64_t j = 0; j < s1; ++j) mine[j] += x0[i * s1 + j];
      #pragma omp critical
      for (int64_t j = 0; j < s1; ++j) y0[j] += mine[j];
    }
  }
}
