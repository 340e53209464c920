// Products of small float matrices that lie in a cache: what attention and other matrix kernels put together. Sums of products
// use fused multiply-add where the machine has it, as BLAS does; everything element by element does not.
#pragma once
#include <autokernel/math.h>
#include <autokernel/turn.h>

namespace ak {

// s[r][c] = sum over d of q[r][d] * panel[d][c], for R rows and the C*N columns of a panel.
template <int R, int C, int N> AK_INLINE void panel_dots(const float* q, int64_t ldq, const float* panel, int64_t depth, float* s, int64_t lds) {
  vec<float, N> sum[R][C];
  for (int r = 0; r < R; ++r) for (int c = 0; c < C; ++c) sum[r][c] = vec<float, N>(0.0f);
  for (int64_t d = 0; d < depth; ++d) {
    vec<float, N> k[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) k[c] = load(panel + (d * C + c) * N, all<N>{});
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const vec<float, N> x(q[r * ldq + d]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = multiply_add(x, k[c], sum[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) store(s + r * lds + c * N, sum[r][c], all<N>{});
  }
}

// The same added to what stands in s, where `more`.
template <int R, int C, int N> AK_INLINE void panel_sums(const float* q, int64_t ldq, const float* panel, int64_t depth, float* s, int64_t lds, bool more) {
  if (!more) return panel_dots<R, C, N>(q, ldq, panel, depth, s, lds);
  alignas(AK_BYTES) float part[R * C * N];
  panel_dots<R, C, N>(q, ldq, panel, depth, part, C * N);
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) store(s + r * lds + c * N, load(s + r * lds + c * N, all<N>{}) + load(part + (r * C + c) * N, all<N>{}), all<N>{});
  }
}

// A matrix that is read along its columns, turned: to[i * step + c] for i below `depth` and c below `width`, from at(c, i, m), which
// gives a vector of column c from i on. Columns from n on are 0.
template <int N, class At> AK_INLINE void pack_turned(float* to, int64_t step, int64_t depth, int64_t n, int64_t width, At&& at) {
  for (int64_t c = 0; c < width; c += N) {
    each<N>(0, depth, [&](int64_t i, auto m) AK_BODY {
      vec<float, N> v[N];
      if (c + N <= n) {
#pragma GCC unroll 16
        for (int k = 0; k < N; ++k) v[k] = at(c + k, i, m);
      } else {
        for (int k = 0; k < N; ++k) v[k] = c + k < n ? at(c + k, i, m) : vec<float, N>(0.0f);
      }
      turn(v);
#pragma GCC unroll 16
      for (int k = 0; k < N; ++k) {
        if (k < count(m)) store(to + (i + k) * step + c, v[k], all<N>{});
      }
    });
  }
}

// Lane i is the sum of vector i; the N vectors are used up.
template <int Step, int N> AK_INLINE vec<float, N> hsums(vec<float, N>* v) {
  if constexpr (Step == N) { return v[0]; }
  else {
#pragma GCC unroll 8
    for (int i = 0; i < N / (2 * Step); ++i) {
      const vec<float, N> a = v[2 * i], b = v[2 * i + 1];
      v[i] = crossed<Step, 0>(a, b, std::make_integer_sequence<int, N>{}) + crossed<Step, 1>(a, b, std::make_integer_sequence<int, N>{});
    }
    return hsums<2 * Step>(v);
  }
}

// Asks for rows of `columns` elements that are needed soon.
template <class Mem> AK_INLINE void prefetch_rows(const Mem* p, int64_t ld, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; c += 64 / int64_t(sizeof(Mem))) __builtin_prefetch(p + r * ld + c, 0, 2);
}

// s[r][j] = sum over d of q[r][d] * k[j][d], for R rows and J keys as they lie in memory. Rows of q end in zeros up to a
// multiple of N.
template <int R, int J, class E, int N> AK_INLINE void row_dots(const float* q, int64_t ldq, const typename E::Mem* k, int64_t ldk, int64_t depth, float* s, int64_t lds) {
  vec<float, N> sum[R][J];
  for (int r = 0; r < R; ++r) for (int j = 0; j < J; ++j) sum[r][j] = vec<float, N>(0.0f);
  const auto step = [&](int64_t d, auto m) AK_BODY {
    vec<float, N> key[J];
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) key[j] = get<E>(k + j * ldk + d, m);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const vec<float, N> x = load(q + r * ldq + d, all<N>{});
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) sum[r][j] = multiply_add(x, key[j], sum[r][j]);
    }
  };
  each<N>(0, depth, step);
  if constexpr (R * J == N && !is_wide<float, N>) {
    alignas(AK_BYTES) float each_sum[N];
    store(each_sum, hsums<1>(&sum[0][0]), all<N>{});
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) __builtin_memcpy(s + r * lds, each_sum + r * J, J * sizeof(float));
  } else {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) s[r * lds + j] = hsum(sum[r][j]);
    }
  }
}

// o[r][e] += sum over j of p[r][j] * v[j][e], for R rows, C vectors of columns and `keys` keys. M says which columns exist.
template <int R, int C, class E, int N, class M> AK_INLINE void update(const float* p, int64_t ldp, const typename E::Mem* v, int64_t ldv, int64_t keys, float* o, int64_t ldo, M m) {
  vec<float, N> sum[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[r][c] = load(o + r * ldo + c * N, all<N>{});
  }
  for (int64_t j = 0; j < keys; ++j) {
    vec<float, N> x[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) x[c] = get<E>(v + j * ldv + c * N, m);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const vec<float, N> w(p[r * ldp + j]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = multiply_add(w, x[c], sum[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) store(o + r * ldo + c * N, sum[r][c], all<N>{});
  }
}

// The same over all `columns`; rows of o are that long, rounded up to whole vectors.
template <int R, int C, class E, int N> AK_INLINE void update_all(const float* p, int64_t ldp, const typename E::Mem* v, int64_t ldv, int64_t keys, int64_t columns, float* o, int64_t ldo) {
  int64_t e = 0;
  for (; e + C * N <= columns; e += C * N) update<R, C, E, N>(p, ldp, v + e, ldv, keys, o + e, ldo, all<N>{});
  for (; e + N <= columns; e += N) update<R, 1, E, N>(p, ldp, v + e, ldv, keys, o + e, ldo, all<N>{});
  if (e < columns) update<R, 1, E, N>(p, ldp, v + e, ldv, keys, o + e, ldo, first<N>{columns - e});
}

// The same for `rows` rows, key by key, without those whose weight is marked as negative.
template <class E, int N> AK_INLINE void update_marked(int64_t rows, const float* p, int64_t ldp, const typename E::Mem* v, int64_t ldv, int64_t keys, int64_t columns, float* o, int64_t ldo) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < keys; ++j) {
      const float w = p[r * ldp + j];
      if (w < 0.0f) continue;
      each<N>(0, columns, [&](int64_t e, auto m) AK_BODY {
        store(o + r * ldo + e, multiply_add(vec<float, N>(w), get<E>(v + j * ldv + e, m), load(o + r * ldo + e, m)), m);
      });
    }
}

// 0 where all of `keys` rows of values are finite, NaN else.
template <class E, int N> AK_INLINE float nothing_of(const typename E::Mem* v, int64_t ldv, int64_t keys, int64_t columns) {
  vec<float, N> sum(0.0f);
  for (int64_t j = 0; j < keys; ++j) each<N>(0, columns, [&](int64_t e, auto m) AK_BODY { sum = sum + get<E>(v + j * ldv + e, m) * 0.0f; });
  return hsum(sum);
}

// e^x for x <= 0 (and NaN), within 1.01 ULP; 0 below -104. Fewer steps than exp: no overflow to think of, and fused steps.
template <int N> AK_INLINE vec<float, N> exp_down_large(const vec<float, N>& x) {
  if constexpr (is_wide<float, N>) { return {exp_down_large(x.lo), exp_down_large(x.hi)}; }
  else {
    vec<float, N> n, t;
    const vec<float, N> p = exp_near_zero(reduce_ln2(x, n, t));
#if defined(AK_AVX512)
    if constexpr (N >= 4) return scale2_above(x, p, n);
#endif
    // 2^n by way of 2^(n + 64), so that denormal results are rounded once; n stands in the lowest bits of t
    const vec<float, N> power = bits<float>((bits<int32_t>(t) + (127 + 64)) << 23);
    return select(x < -104.0f, 0.0f, p * power * 0x1p-64f);
  }
}
template <int N> AK_INLINE vec<float, N> exp_down(const vec<float, N>& x) {
#if !defined(AK_AVX512)
  if (__builtin_expect(!any(~(x >= -87.0f)), 1)) return exp_small(x);
#endif
  return exp_down_large(x);
}

// One row of scores turned into weights that are relative to the row's greatest score so far; its sum and the results
// gathered before are brought to the new scale. A row without any score above -inf keeps weights of 0.
template <int N> AK_INLINE void online_softmax(float* s, int64_t n, const vec<float, N>& tops, float& top, float& total, float* o, int64_t columns) {
  const float high = maximum(top, hmax(tops)), shift = high == -std::numeric_limits<float>::infinity() ? 0.0f : high;
  vec<float, N> sum(0.0f);
  each<N>(0, n, [&](int64_t j, auto m) AK_BODY {
    const vec<float, N> w = exp_down(load(s + j, m) - shift);
    store(s + j, w, m);
    sum = sum + keep(m, w, 0.0f);
  });
  const float scale = top == high ? 1.0f : std::exp(top - shift);
  if (!(scale == 1.0f)) {
    for (int64_t e = 0; e < columns; e += N) store(o + e, load(o + e, all<N>{}) * scale, all<N>{});
  }
  total = total * scale + hsum(sum);
  top = high;
}

}  // namespace ak
