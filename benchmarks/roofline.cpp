// What the machine can do at most: a copy with and without non-temporal stores, and independent multiply-adds in registers.
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float Vector __attribute__((vector_size(BYTES)));
constexpr int CHAINS = 10;

extern "C" {

__attribute__((visibility("default"))) void copy(const char* from, char* to, int64_t bytes, int64_t times, int threads, int stream) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int part = 0; part < threads; ++part) {
    const int64_t begin = bytes * part / threads / 64 * 64;
    const int64_t end = part + 1 == threads ? bytes : bytes * (part + 1) / threads / 64 * 64;
    for (int64_t again = 0; again < times; ++again) {
#if defined(__AVX__)
      if (stream) {
        int64_t at = begin;
        for (; at + 32 <= end; at += 32)
          _mm256_stream_si256((__m256i*)(to + at), _mm256_loadu_si256((const __m256i*)(from + at)));
        _mm_sfence();
        memcpy(to + at, from + at, end - at);
        continue;
      }
#endif
      memcpy(to + begin, from + begin, end - begin);
      asm volatile("" ::: "memory");
    }
  }
}

// `times` rounds of CHAINS independent vector multiply-adds on every thread; returns floating-point operations done.
__attribute__((visibility("default"))) double fma(int64_t times, int threads, float* sink) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int part = 0; part < threads; ++part) {
    Vector sums[CHAINS], a = {}, b = {};
    a += 0.999f + 1e-9f * part;
    b += 1e-3f;
    for (int k = 0; k < CHAINS; ++k) sums[k] = b * float(k + 1);
    for (int64_t i = 0; i < times; ++i) {
#pragma GCC unroll 16
      for (int k = 0; k < CHAINS; ++k) {
        sums[k] = sums[k] * a + b;
#if defined(__x86_64__)
        asm volatile("" : "+x"(sums[k]));
#else
        asm volatile("" : "+w"(sums[k]));
#endif
      }
    }
    Vector total = {};
    for (int k = 0; k < CHAINS; ++k) total += sums[k];
    sink[part * 16] = total[0];
  }
  return double(times) * CHAINS * (BYTES / 4) * 2 * threads;
}
}
