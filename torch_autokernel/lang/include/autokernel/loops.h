// Loops over steps of N lanes, and the folding of lanes into one value.
#pragma once
#include <autokernel/memory.h>

namespace ak {

AK_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// body(j, all) for every whole step of [from, to), then body(j, first) for what is left.
template <int N, class Body> AK_INLINE void each(int64_t from, int64_t to, Body&& body) {
  int64_t j = from;
  for (; j + N <= to; j += N) body(j, all<N>{});
  if (j < to) body(j, first<N>{to - j});
}

// The same from the end: what is left over first, then the whole steps.
template <int N, class Body> AK_INLINE void each_back(int64_t from, int64_t to, Body&& body) {
  int64_t j = to - (to - from) % N;
  if (j < to) body(j, first<N>{to - j});
  for (; j > from; j -= N) body(j - N, all<N>{});
}

// Where nothing is gathered: the last step is a whole one that begins earlier, and does some of the work again.
template <int N, class Body> AK_INLINE void each_whole(int64_t from, int64_t to, Body&& body) {
  if (to - from < N) { if (from < to) body(from, first<N>{to - from}); return; }
  for (int64_t j = from; j < to; j += N) body(least(j, to - N), all<N>{});
}

AK_INLINE int64_t cdiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
// The steps from the last to the first where `back`, as `each` otherwise.
template <int N, class Body> AK_INLINE void each_way(bool back, int64_t from, int64_t to, Body&& body) {
  const int64_t steps = cdiv(to - from, N);
  for (int64_t i = 0; i < steps; ++i) {
    const int64_t j = from + (back ? steps - 1 - i : i) * N;
    if (j + N <= to) { body(j, all<N>{}); } else { body(j, first<N>{to - j}); }
  }
}
// A sum over `steps` in three levels, none of them long: terms of a run, runs of a group (as many), groups. So rounding errors
// grow with the sixth root of the length. At least 32.
AK_INLINE int64_t run_length(int64_t steps) {
  int64_t n = 32;
  while (n * n * n < steps) n *= 2;
  return n;
}
AK_INLINE int64_t within(int64_t i, int64_t size) { return i < 0 ? 0 : i >= size ? size - 1 : i; }
template <int N> AK_INLINE vec<int64_t, N> within(const vec<int64_t, N>& i, int64_t size) {
  const vec<int64_t, N> up = select(i < int64_t(0), vec<int64_t, N>(0), i);
  return select(up >= size, vec<int64_t, N>(size - 1), up);
}

// A distance in lanes, cut off beyond the step on either side: enough to compare lane numbers with.
template <int N> AK_INLINE int32_t near(int64_t d) { return int32_t(d < -1 ? -1 : d > N ? N : d); }

// ---- workspace ----
// The next `count` elements of the workspace, aligned to 64 bytes.
template <class T> AK_INLINE T* take(char*& free, int64_t count) {
  T* p = reinterpret_cast<T*>(free);
  free += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
  return p;
}
template <class T> AK_INLINE void fill(T* p, int64_t count, T value) { for (int64_t i = 0; i < count; ++i) p[i] = value; }
// total += part; part = 0
template <class T> AK_INLINE void pour(T* total, T* part, int64_t count) {
  for (int64_t i = 0; i < count; ++i) { total[i] += part[i]; part[i] = 0; }
}

// ---- max and min that keep NaN, as torch's do ----
// a where it is the larger (the lesser), else b: also of zeros, and where either is NaN. One instruction, which compilers make of
// these words for single numbers only.
#if defined(__AVX__)
#define AK_EXTREME(name, op, single, twofold)                                                            \
  template <class T, int N> AK_INLINE vec<T, N> name(const vec<T, N>& a, const vec<T, N>& b) {           \
    if constexpr (is_wide<T, N>) { return {name(a.lo, b.lo), name(a.hi, b.hi)}; }                        \
    else if constexpr (!std::is_floating_point_v<T> || N * sizeof(T) < 16) { return select(a op b, a, b); } \
    else {                                                                                               \
      vec<T, N> r;                                                                                       \
      if constexpr (sizeof(T) == 4) { asm(single " %2, %1, %0" : "=v"(r.r) : "v"(a.r), "v"(b.r)); }      \
      else { asm(twofold " %2, %1, %0" : "=v"(r.r) : "v"(a.r), "v"(b.r)); }                              \
      return r;                                                                                          \
    }                                                                                                    \
  }
#else
#define AK_EXTREME(name, op, single, twofold) \
  template <class T, int N> AK_INLINE vec<T, N> name(const vec<T, N>& a, const vec<T, N>& b) { return select(a op b, a, b); }
#endif
AK_EXTREME(larger, >, "vmaxps", "vmaxpd")
AK_EXTREME(lesser, <, "vminps", "vminpd")
#undef AK_EXTREME
template <class T, int N> AK_INLINE vec<T, N> maximum(const vec<T, N>& a, const vec<T, N>& b) {
  if constexpr (std::is_floating_point_v<T>) { return select(a == a, larger(a, b), a); } else { return larger(a, b); }
}
template <class T, int N> AK_INLINE vec<T, N> minimum(const vec<T, N>& a, const vec<T, N>& b) {
  if constexpr (std::is_floating_point_v<T>) { return select(a == a, lesser(a, b), a); } else { return lesser(a, b); }
}
template <class T, int N> AK_INLINE vec<T, N> maximum(const vec<T, N>& a, same_t<T> b) { return maximum(a, vec<T, N>(b)); }
template <class T, int N> AK_INLINE vec<T, N> maximum(same_t<T> a, const vec<T, N>& b) { return maximum(vec<T, N>(a), b); }
template <class T, int N> AK_INLINE vec<T, N> minimum(const vec<T, N>& a, same_t<T> b) { return minimum(a, vec<T, N>(b)); }
template <class T, int N> AK_INLINE vec<T, N> minimum(same_t<T> a, const vec<T, N>& b) { return minimum(vec<T, N>(a), b); }
template <class T> AK_INLINE std::enable_if_t<std::is_arithmetic_v<T>, T> maximum(T a, same_t<T> b) { return a != a || a > b ? a : b; }
template <class T> AK_INLINE std::enable_if_t<std::is_arithmetic_v<T>, T> minimum(T a, same_t<T> b) { return a != a || a < b ? a : b; }

// ---- folds ----
struct add_ { template <class V> static AK_INLINE V of(const V& a, const V& b) { return a + b; } };
struct mul_ { template <class V> static AK_INLINE V of(const V& a, const V& b) { return a * b; } };
struct max_ { template <class V> static AK_INLINE V of(const V& a, const V& b) { return maximum(a, b); } };
struct min_ { template <class V> static AK_INLINE V of(const V& a, const V& b) { return minimum(a, b); } };
template <class F, class T, int N> AK_INLINE T fold(const vec<T, N>& v) {
  if constexpr (N * sizeof(T) > 16) { return fold<F>(F::of(low(v), high(v))); }
  else if constexpr (N == 4) { return F::of(F::of(v.r[0], v.r[2]), F::of(v.r[1], v.r[3])); }
  else if constexpr (N == 2) { return F::of(v.r[0], v.r[1]); }
  else { T t = v.r[0]; for (int i = 1; i < N; ++i) t = F::of(t, T(v.r[i])); return t; }
}
template <class T, int N> AK_INLINE T hsum(const vec<T, N>& v) { return fold<add_>(v); }
template <class T, int N> AK_INLINE T hprod(const vec<T, N>& v) { return fold<mul_>(v); }
template <class T, int N> AK_INLINE T hmax(const vec<T, N>& v) { return fold<max_>(v); }
template <class T, int N> AK_INLINE T hmin(const vec<T, N>& v) { return fold<min_>(v); }
template <int N> AK_INLINE bool hany(const mask<N>& v) { return any(v); }
template <int N> AK_INLINE bool hall(const mask<N>& v) { return !any(~v); }

}  // namespace ak
