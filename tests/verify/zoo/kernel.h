// What the zoo's kernels share.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>

static inline float from_bf16(uint16_t h) {
  const uint32_t bits = (uint32_t)h << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
static inline uint16_t to_bf16(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if (f != f) return (bits >> 16) | 0x40;
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
static inline float round_bf16(float f) { return from_bf16(to_bf16(f)); }
static inline float relu(float x) { return x < 0 ? 0 : x; }                       // keeps NaN
static inline float larger(float a, float b) { return a != a || a > b ? a : b; }  // keeps NaN
static inline float row_max(const float* x, int64_t n) {
  float top = -INFINITY;
  for (int64_t j = 0; j < n; ++j) top = larger(top, x[j]);
  return top;
}
