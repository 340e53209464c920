// Mean and squared deviations in one pass: runs of steps, each shifted by the mean of all before it, folded by the formula of
// Chan, Golub and LeVeque (1979). A run is never longer than what came before it, up to RUN steps: an outlier at the beginning
// shifts few elements, and has its part in the result.
//   squares       lanes are elements of one row, as many as the mask says
//   squares_each  lanes are different rows
#pragma once
#include <autokernel/math.h>

namespace ak {

struct moments { double n, mean, m2, total; };

AK_INLINE moments merge(const moments& a, const moments& b) {
  if (b.n == 0) return a;
  if (a.n == 0) return b;
  const double n = a.n + b.n, d = b.mean - a.mean, w = b.n / n;
  return {n, a.mean + d * w, a.m2 + b.m2 + d * d * (a.n * w), a.total + b.total};
}

constexpr int64_t RUN = 64;  // steps

template <class T, int N> struct squares {
  vec<T, N> s = T(0), q = T(0);
  T shift = 0;
  int64_t left = 0, length = 0, lacking = 0;  // steps of this run that are to come, and all; elements that its steps had not
  moments before = {0, 0, 0, 0};

  template <class M> AK_INLINE void step(const vec<T, N>& x, M m) {
    if (__builtin_expect(left == 0, 0)) turn(x, m);
    --left;
    lacking += N - count(m);
    const vec<T, N> d = keep(m, x - shift, T(0));
    s = s + d;
    q = q + d * d;
  }
  template <class M> AK_INLINE void turn(const vec<T, N>& x, M m) {
    fold();
    length = least(RUN, length ? 2 * length : 1);
    left = length;
    shift = before.n == 0 ? hsum(keep(m, x, T(0))) / T(count(m)) : T(before.mean);
    if (!(shift - shift == 0)) shift = 0;
  }
  AK_INLINE void fold() {
    const double n = double((length - left) * N - lacking);
    if (n > 0) {
      const double sum = hsum(s), squared = hsum(q);
      before = merge(before, {n, shift + sum / n, squared - sum * (sum / n), shift * n + sum});
    }
    s = q = vec<T, N>(T(0));
    left = lacking = 0;
    length = n > 0 ? length : 0;
  }
  AK_INLINE moments part() { end(); return before; }
  AK_INLINE T sum() { end(); return T(before.total); }
  AK_INLINE T deviations() { end(); return T(before.m2); }
  AK_INLINE void end() { fold(); length = 0; }
};

template <class T, int N> struct squares_each {
  vec<T, N> s = T(0), q = T(0), shift = T(0);
  int64_t left = 0, length = 0;
  double n = 0;
  vec<double, N> total = 0.0, mean = 0.0, m2 = 0.0;

  AK_INLINE void step(const vec<T, N>& x) {
    if (__builtin_expect(left == 0, 0)) turn(x);
    --left;
    const vec<T, N> d = x - shift;
    s = s + d;
    q = q + d * d;
  }
  AK_INLINE void turn(const vec<T, N>& x) {
    fold();
    length = left = least(RUN, length ? 2 * length : 1);
    shift = n == 0 ? x : to<T>(mean);
    shift = select(shift - shift == T(0), shift, T(0));
  }
  AK_INLINE void fold() {
    const double own = double(length - left);
    if (own > 0) {
      const vec<double, N> sum = to<double>(s), from = to<double>(shift), at = from + sum / own, d = at - mean;
      const double w = own / (n + own);
      m2 = m2 + (to<double>(q) - sum * (sum / own)) + (n == 0 ? vec<double, N>(0.0) : d * d * (n * w));
      mean = n == 0 ? at : mean + d * w;
      total = total + (from * own + sum);
      n += own;
    }
    s = q = vec<T, N>(T(0));
    left = 0;
  }
  AK_INLINE vec<T, N> sum() { end(); return to<T>(total); }
  AK_INLINE vec<T, N> deviations() { end(); return to<T>(m2); }
  AK_INLINE void end() { fold(); length = 0; }
};

}  // namespace ak
