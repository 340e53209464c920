// Where the extreme of a row stands: the first element that holds it, or the first NaN. F is max_ or min_.
//   place_along  lanes are elements of one row, in order, as many as the mask says
//   place_each   lanes are different rows
//   place_one    one row, one element at a time
// A step compares; what follows from it is for steps that have something better, which are few.
#pragma once
#include <autokernel/math.h>

namespace ak {

template <class F, class T> constexpr T farthest() {
  constexpr bool low = std::is_same_v<F, max_>;
  if constexpr (std::is_floating_point_v<T>) { return low ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::infinity(); }
  else { return low ? std::numeric_limits<T>::lowest() : std::numeric_limits<T>::max(); }
}
// Not behind b, nor equal to it: also where either is NaN.
template <class F, class V> AK_INLINE auto beyond(const V& a, const V& b) {
  if constexpr (std::is_same_v<F, max_>) { return ~(a <= b); } else { return ~(a >= b); }
}

template <class F, class T, int N> struct place_each {
  vec<T, N> best = farthest<F, T>();
  vec<int64_t, N> at = int64_t(0);
  AK_INLINE void step(const vec<T, N>& x, int64_t j) {
    const auto better = beyond<F>(x, best);
    if (__builtin_expect(any(better), 0)) take(x, better, vec<int64_t, N>(j));
  }
  AK_INLINE void take(const vec<T, N>& x, mask<N> better, const vec<int64_t, N>& j) {
    if constexpr (std::is_floating_point_v<T>) { better = better & (best == best); }  // the first NaN stays
    best = select(better, x, best);
    at = select(better, j, at);
  }
  AK_INLINE vec<int64_t, N> place() const { return at; }
};

template <class F, class T, int N> struct place_along : place_each<F, T, N> {
  using place_each<F, T, N>::best;
  using place_each<F, T, N>::at;  // 0 in lanes that had nothing better: of a row that is as far as can be the first counts
  template <class M> AK_INLINE void step(const vec<T, N>& x, int64_t j, M m) {
    const auto there = keep(m, x, farthest<F, T>());
    const auto better = beyond<F>(there, best);
    if (__builtin_expect(any(better), 0)) this->take(there, better, ramp<int64_t, N>(j, 1));
  }
  AK_INLINE int64_t place() const {
    const T top = fold<F>(best);
    mask<N> found = best == vec<T, N>(top);
    if constexpr (std::is_floating_point_v<T>) { found = top == top ? found : mask<N>(best != best); }
    return hmin(select(found, at, std::numeric_limits<int64_t>::max()));
  }
};

template <class F, class T> struct place_one {
  T best = farthest<F, T>();
  int64_t at = 0;
  AK_INLINE void step(T x, int64_t j) {
    const bool better = std::is_same_v<F, max_> ? !(x <= best) : !(x >= best);
    if (better && best == best) { best = x; at = j; }
  }
  AK_INLINE int64_t place() const { return at; }
};

}  // namespace ak
