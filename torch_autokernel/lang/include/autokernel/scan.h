// Prefix sums, products, extremes and log-sum-exps along a loop: one state a row, in whichever direction the lanes run.
//   along(v, m)  the lanes are consecutive elements of one row: the state is one number
//   step(v)      the lanes are different rows: the state is as wide as v
// Sums and products are kept in double, as torch keeps them: a partial sum beyond float's range may come back.
#pragma once
#include <autokernel/math.h>

namespace ak {

#if defined(__clang__)
template <class T, int N, int S, int... I> AK_INLINE raw<T, N> moved_up(raw<T, N> v, raw<T, N> fill, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(fill, v, (N - S + I)...);
}
#else
template <class T, int N, int S, int... I> AK_INLINE raw<T, N> moved_up(raw<T, N> v, raw<T, N> fill, std::integer_sequence<int, I...>) {
  return __builtin_shuffle(fill, v, raw<mask_int<T>, N>{(N - S + I)...});
}
#endif
// Lane i becomes the fold of the lanes up to i.
template <class F, class T, int N, int S = 1> AK_INLINE vec<T, N> prefix(const vec<T, N>& v, T neutral) {
  if constexpr (is_wide<T, N>) {
    const auto lo = prefix<F>(v.lo, neutral), hi = prefix<F>(v.hi, neutral);
    return {lo, F::of(vec<T, N / 2>(lo[N / 2 - 1]), hi)};
  } else if constexpr (S >= N) {
    return v;
  } else {
    const vec<T, N> up(moved_up<T, N, S>(v.r, vec<T, N>(neutral).r, std::make_integer_sequence<int, N>{}));
    return prefix<F, T, N, 2 * S>(F::of(up, v), neutral);
  }
}

AK_INLINE double larger_type(float) { return 0; }
AK_INLINE double larger_type(double) { return 0; }
AK_INLINE int64_t larger_type(int64_t) { return 0; }
AK_INLINE int32_t larger_type(int32_t) { return 0; }
template <class T> using in_full = decltype(larger_type(T()));

// Sums (add_) and products (mul_). W is 1 where the state is one number.
template <class F, class T, int W> struct running {
  using S = in_full<T>;
  using State = std::conditional_t<W == 1, S, vec<S, W == 1 ? 2 : W>>;
  S neutral;
  State state;
  AK_INLINE running(S zero) : neutral(zero), state(zero) {}
  template <int N, class M> AK_INLINE vec<T, N> along(const vec<T, N>& v, M m) {
    const vec<S, N> up = F::of(vec<S, N>(state), prefix<F>(to<S>(keep(m, v, T(neutral))), neutral));
    state = up[N - 1];
    return to<T>(up);
  }
  template <class V> AK_INLINE V step(const V& v) { state = F::of(state, to<S>(v)); return to<T>(state); }
};
template <class T, int W> struct running_sum : running<add_, T, W> { AK_INLINE running_sum() : running<add_, T, W>(0) {} };
template <class T, int W> struct running_prod : running<mul_, T, W> { AK_INLINE running_prod() : running<mul_, T, W>(1) {} };

// log(sum of exp) so far is top + log(sum); a step costs one exponential and one logarithm.
template <class T, int W> struct running_logsumexp {
  using State = std::conditional_t<W == 1, T, vec<T, W == 1 ? 2 : W>>;
  State top = State(-std::numeric_limits<T>::infinity()), sum = State(T(0));
  // Where v is equal to the top (both may be infinite) their difference counts as 0.
  template <class V> AK_INLINE V step(const V& v) {
    const auto same = v == top, above = v > top;
    const V e = exp(select(same, T(0), -abs(v - top)));
    sum = select(above, sum * e + T(1), sum + e);
    top = maximum(v, top);
    return top + log(sum);
  }
  template <int N, class M> AK_INLINE vec<T, N> along(const vec<T, N>& v, M m) {
    constexpr T far = 4;  // nats below the block's top: beyond, the logarithm would lose digits of small early sums
    const vec<T, N> x = keep(m, v, -std::numeric_limits<T>::infinity());
    const T most = maximum(top, hmax(x)), early = maximum(top, x[0]);
    if (__builtin_expect(!(most - early <= far), 0)) return one_by_one(x);  // or not finite
    const auto p = prefix<add_>(exp(x - most), T(0)) + sum * exp(top - most);
    top = most;
    sum = p[N - 1];
    return most + log(p);
  }
  template <int N> __attribute__((noinline)) vec<T, N> one_by_one(vec<T, N> x) {
    alignas(AK_BYTES) T t[N];
    store(t, x, all<N>{});
    for (int i = 0; i < N; ++i) t[i] = step(t[i]);
    return load(t, all<N>{});
  }
};

template <class F, class T, int W> struct running_extreme {
  using State = std::conditional_t<W == 1, T, vec<T, W == 1 ? 2 : W>>;
  T neutral;
  State state;
  AK_INLINE running_extreme(T least) : neutral(least), state(least) {}
  template <int N, class M> AK_INLINE vec<T, N> along(const vec<T, N>& v, M m) {
    const auto up = F::of(vec<T, N>(state), prefix<F>(keep(m, v, neutral), neutral));
    state = up[N - 1];
    return up;
  }
  template <class V> AK_INLINE V step(const V& v) { return state = F::of(state, v); }
};

}  // namespace ak
