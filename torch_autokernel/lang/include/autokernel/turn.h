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
template <int Step, class T, int N> AK_INLINE void exchange(vec<T, N>* v) {
  if constexpr (Step < N) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      if ((i & Step) == 0) {
        const vec<T, N> a = v[i], b = v[i + Step];
        v[i] = crossed<Step, 0>(a, b, std::make_integer_sequence<int, N>{});
        v[i + Step] = crossed<Step, 1>(a, b, std::make_integer_sequence<int, N>{});
      }
    }
    exchange<2 * Step>(v);
  }
}
template <class T, int N> AK_INLINE void turn(vec<T, N> (&v)[N]) { exchange<1>(v); }

// What stands for elements of so many bytes while they are only moved.
template <int Bytes> struct moved;
template <> struct moved<1> { using type = uint8_t; };
template <> struct moved<2> { using type = uint16_t; };
template <> struct moved<4> { using type = float; };
template <> struct moved<8> { using type = double; };

// to[r * to_step + c] = from[c * from_step + r] for `rows` r and `columns` c.
template <class Mem> inline void turned(Mem* to, int64_t to_step, const Mem* from, int64_t from_step, int64_t rows, int64_t columns) {
  using T = typename moved<sizeof(Mem)>::type;
  constexpr int K = AK_BYTES / sizeof(T) < 16 ? AK_BYTES / sizeof(T) : 16;
  T* const t = reinterpret_cast<T*>(to);
  const T* const f = reinterpret_cast<const T*>(from);
  for (int64_t c = 0; c < columns; c += K) {
    for (int64_t r = 0; r < rows; r += K) {
      const int64_t high = rows - r, wide = columns - c;
      vec<T, K> v[K];
      if (high >= K && wide >= K) {
#pragma GCC unroll 16
        for (int k = 0; k < K; ++k) v[k] = load(f + (c + k) * from_step + r, all<K>{});
        turn(v);
#pragma GCC unroll 16
        for (int k = 0; k < K; ++k) store(t + (r + k) * to_step + c, v[k], all<K>{});
      } else {
        for (int64_t j = c; j < c + (wide < K ? wide : K); ++j)
          for (int64_t i = r; i < r + (high < K ? high : K); ++i) to[i * to_step + j] = from[j * from_step + i];
      }
    }
  }
}

}  // namespace ak
