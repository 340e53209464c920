// Short rows that lie one behind the other, with different rows in the lanes of a vector: N rows of W elements are turned at once.
// Where W is 0 the width is not known to the compiler, and every vector is read and written by steps.
#pragma once
#include <autokernel/math.h>
#include <autokernel/turn.h>

namespace ak {

// to[c * N + i] = from[i * W + c]
template <int N, int W, class T> AK_INLINE void columns_of(T* to, const T* from, all<N>) {
  constexpr int K = AK_BYTES / 4;
  if constexpr (sizeof(T) == 4 && N % K == 0) {
    for (int i = 0; i < N; i += K) {
      for (int c = 0; c < W; c += K) {
        const int at = W < K ? 0 : c + K > W ? W - K : c;
        vec<float, K> v[K];
#pragma GCC unroll 16
        for (int k = 0; k < K; ++k) {
          const float* p = reinterpret_cast<const float*>(from) + (i + k) * W + at;
          if (W >= K || (i + k) * W + K <= N * W) v[k] = load(p, all<K>{});
          else v[k] = load(p, first<K>{(N - i - k) * W});
        }
        turn(v);
#pragma GCC unroll 16
        for (int k = 0; k < K; ++k) if (at + k < W) store(reinterpret_cast<float*>(to) + (at + k) * N + i, v[k], all<K>{});
      }
    }
  } else {
    for (int i = 0; i < N; ++i) for (int c = 0; c < W; ++c) to[c * N + i] = from[i * W + c];
  }
}
template <int N, int W, class T> AK_INLINE void columns_of(T* to, const T* from, first<N> m) {
  for (int c = 0; c < W * N; ++c) to[c] = T(0);
  for (int64_t i = 0; i < m.n; ++i) for (int c = 0; c < W; ++c) to[c * N + i] = from[i * W + c];
}
// to[i * W + c] = from[c * N + i]
template <int N, int W, class T> AK_INLINE void rows_of(T* to, const T* from, all<N>) {
  constexpr int K = AK_BYTES / 4;
  if constexpr (sizeof(T) == 4 && N % K == 0 && W >= K) {
    for (int i = 0; i < N; i += K) {
      for (int c = 0; c < W; c += K) {
        const int at = c + K > W ? W - K : c;
        vec<float, K> v[K];
#pragma GCC unroll 16
        for (int k = 0; k < K; ++k) v[k] = load(reinterpret_cast<const float*>(from) + (at + k) * N + i, all<K>{});
        turn(v);
#pragma GCC unroll 16
        for (int k = 0; k < K; ++k) store(reinterpret_cast<float*>(to) + (i + k) * W + at, v[k], all<K>{});
      }
    }
  } else {
    for (int i = 0; i < N; ++i) for (int c = 0; c < W; ++c) to[i * W + c] = from[c * N + i];
  }
}
template <int N, int W, class T> AK_INLINE void rows_of(T* to, const T* from, first<N> m) {
  for (int64_t i = 0; i < m.n; ++i) for (int c = 0; c < W; ++c) to[i * W + c] = from[c * N + i];
}

template <class E, int N, int W> struct short_rows {
  alignas(AK_BYTES) mem_t<E> t[W * N];
  template <class M> AK_INLINE short_rows(const typename E::Mem* p, int64_t, M m) { columns_of<N, W>(t, reinterpret_cast<const mem_t<E>*>(p), m); }
  template <class M> AK_INLINE auto at(int64_t c, M) const { return E::in(load(t + c * N, all<N>{})); }
};
template <class E, int N> struct short_rows<E, N, 0> {
  const typename E::Mem* p;
  int64_t width;
  template <class M> AK_INLINE short_rows(const typename E::Mem* from, int64_t w, M) : p(from), width(w) {}
  template <class M> AK_INLINE auto at(int64_t c, M m) const { return get_strided<E>(p + c, width, m); }
};

// Rows to be written: all columns are put, then they leave together.
template <class T, int N, int W> struct short_results {
  alignas(AK_BYTES) T t[W * N];
  T* p;
  AK_INLINE short_results(T* to, int64_t) : p(to) {}
  template <class E, class V, class M> AK_INLINE void put(int64_t c, const V& v, M) { store(reinterpret_cast<mem_t<E>*>(t) + c * N, E::out(v), all<N>{}); }
  template <class M> AK_INLINE void leave(M m) { rows_of<N, W>(p, t, m); }
};
template <class T, int N> struct short_results<T, N, 0> {
  T* p;
  int64_t width;
  AK_INLINE short_results(T* to, int64_t w) : p(to), width(w) {}
  template <class E, class V, class M> AK_INLINE void put(int64_t c, const V& v, M m) { put_strided<E>(p + c, v, width, m); }
  template <class M> AK_INLINE void leave(M) {}
};

}  // namespace ak
