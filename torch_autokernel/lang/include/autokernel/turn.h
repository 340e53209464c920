// Squares of lanes, rows for columns.
#pragma once
#include <autokernel/memory.h>

namespace ak {

// Of vectors a and b: blocks of Step lanes by turns, the even ones of both or the odd ones.
template <int Step, int Odd, class T, int N, int... I> AK_INLINE vec<T, N> crossed(const vec<T, N>& a, const vec<T, N>& b, std::integer_sequence<int, I...>) {
#if defined(AK_SHUFFLES)
  return vec<T, N>(__builtin_shufflevector(a.r, b.r, ((I & Step) ? N + I - (Odd ? 0 : Step) : I + (Odd ? Step : 0))...));
#else
  return vec<T, N>(raw<T, N>{((I & Step) ? b.r[I - (Odd ? 0 : Step)] : a.r[(I + (Odd ? Step : 0)) % N])...});
#endif
}

// N vectors of N lanes, rows for columns.
template <int Step, int N> AK_INLINE void exchange(vec<float, N>* v) {
  if constexpr (Step < N) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      if ((i & Step) == 0) {
        const vec<float, N> a = v[i], b = v[i + Step];
        v[i] = crossed<Step, 0>(a, b, std::make_integer_sequence<int, N>{});
        v[i + Step] = crossed<Step, 1>(a, b, std::make_integer_sequence<int, N>{});
      }
    }
    exchange<2 * Step, N>(v);
  }
}
template <int N> AK_INLINE void turn(vec<float, N> (&v)[N]) { exchange<1, N>(v); }

}  // namespace ak
