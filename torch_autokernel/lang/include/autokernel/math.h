// Branch-free float functions on vectors, accurate to about 1-2 ULP with IEEE special values; doubles and rare
// functions go through libm lane by lane. Polynomials are our own minimax fits (relative error well below 2^-24).
#pragma once
#include <autokernel/loops.h>
#include <cmath>

namespace ak {

// ---- lane by lane, for what has no vector form ----
template <class T, int N, class F> AK_INLINE vec<T, N> per_lane(const vec<T, N>& a, F f) {
  alignas(AK_BYTES) T t[N];
  store(t, a, all<N>{});
  for (int i = 0; i < N; ++i) t[i] = f(t[i]);
  return load(t, all<N>{});
}
template <class T, int N, class F> AK_INLINE vec<T, N> per_lane(const vec<T, N>& a, const vec<T, N>& b, F f) {
  alignas(AK_BYTES) T t[N], u[N];
  store(t, a, all<N>{});
  store(u, b, all<N>{});
  for (int i = 0; i < N; ++i) t[i] = f(t[i], u[i]);
  return load(t, all<N>{});
}

#define AK_SPLIT(f, x) if constexpr (is_wide<float, N / 2>) { return vec<float, N>(f(x.lo), f(x.hi)); } else

// ---- signs, magnitudes, rounding ----
template <class T, int N> AK_INLINE vec<T, N> abs(const vec<T, N>& x) {
  if constexpr (std::is_floating_point_v<T>) { using U = mask_int<T>; return bits<T>(bits<U>(x) & std::numeric_limits<U>::max()); }
  else { return select(x < T(0), -x, x); }
}
template <int N> AK_INLINE vec<float, N> copysign(const vec<float, N>& x, const vec<float, N>& s) {
  return bits<float>((bits<int32_t>(x) & 0x7fffffff) | (bits<int32_t>(s) & int32_t(0x80000000)));
}
template <int N> AK_INLINE vec<float, N> trunc(const vec<float, N>& x) {
  const auto small = abs(x) < 8388608.0f;
  return select(small, copysign(to<float>(to<int32_t>(select(small, x, 0.0f))), x), x);
}
template <int N> AK_INLINE vec<float, N> round(const vec<float, N>& x) {  // half to even
  const auto a = abs(x);
  return select(a < 8388608.0f, copysign((a + 8388608.0f) - 8388608.0f, x), x);
}
template <int N> AK_INLINE vec<float, N> floor(const vec<float, N>& x) { const auto t = trunc(x); return select(t > x, t - 1.0f, t); }
template <int N> AK_INLINE vec<float, N> ceil(const vec<float, N>& x) { const auto t = trunc(x); return select(t < x, copysign(t + 1.0f, x), t); }
template <class T, int N> AK_INLINE vec<T, N> sign(const vec<T, N>& x) {
  return select(x > T(0), vec<T, N>(1), select(x < T(0), vec<T, N>(T(-1)), vec<T, N>(0)));
}
template <class T, int N> AK_INLINE mask<N> isnan(const vec<T, N>& x) { return x != x; }
template <class T, int N> AK_INLINE mask<N> isinf(const vec<T, N>& x) { return abs(x) == std::numeric_limits<T>::infinity(); }

template <class T, int N> AK_INLINE vec<T, N> sqrt(const vec<T, N>& x) {
  if constexpr (is_wide<T, N>) { return {sqrt(x.lo), sqrt(x.hi)}; }
  else {
#if defined(AK_AVX512) || defined(AK_AVX2)
    if constexpr (N * sizeof(T) >= 16) {
      vec<T, N> r;
      if constexpr (sizeof(T) == 4) { asm("vsqrtps %1, %0" : "=v"(r.r) : "v"(x.r)); } else { asm("vsqrtpd %1, %0" : "=v"(r.r) : "v"(x.r)); }
      return r;
    }
#endif
    return per_lane(x, [](T v) { return std::sqrt(v); });
  }
}
template <class T, int N> AK_INLINE vec<T, N> rsqrt(const vec<T, N>& x) { return T(1) / sqrt(x); }
template <class T, int N> AK_INLINE vec<T, N> reciprocal(const vec<T, N>& x) { return T(1) / x; }

// ---- fused multiply-add ----
// a * b + c, rounded once where the machine can. Kernels are compiled without contraction; polynomials and sums of products ask
// for it by name. One or two lanes are no register: instructions that take whole ones are not for them.
template <int N> AK_INLINE vec<float, N> multiply_add(const vec<float, N>& a, const vec<float, N>& b, const vec<float, N>& c) {
  if constexpr (is_wide<float, N>) { return {multiply_add(a.lo, b.lo, c.lo), multiply_add(a.hi, b.hi, c.hi)}; }
#if defined(__FMA__)
  else if constexpr (N < 4) {
    vec<float, N> r;
    for (int i = 0; i < N; ++i) r.r[i] = __builtin_fmaf(a.r[i], b.r[i], c.r[i]);
    return r;
  }
#endif
  else {
#if defined(AK_AVX512)
    vec<float, N> r = c;
    asm("vfmadd231ps %2, %1, %0" : "+v"(r.r) : "v"(a.r), "vm"(b.r));
    return r;
#elif defined(AK_AVX2) && defined(__FMA__)
    if constexpr (N == 8) { return vec<float, N>(__builtin_ia32_vfmaddps256(a.r, b.r, c.r)); }
    else if constexpr (N == 4) { return vec<float, N>(__builtin_ia32_vfmaddps(a.r, b.r, c.r)); }
    else { return a * b + c; }
#else
    return a * b + c;
#endif
  }
}
template <int N> AK_INLINE vec<double, N> multiply_add(const vec<double, N>& a, const vec<double, N>& b, const vec<double, N>& c) { return a * b + c; }
AK_INLINE float multiply_add(float a, float b, float c) { return a * b + c; }
AK_INLINE double multiply_add(double a, double b, double c) { return a * b + c; }
// The polynomial whose highest coefficient is `c`, then `d`, and so on.
template <int N> AK_INLINE vec<float, N> horner(const vec<float, N>&, const vec<float, N>& q) { return q; }
template <int N, class... More> AK_INLINE vec<float, N> horner(const vec<float, N>& x, const vec<float, N>& q, float d, More... more) {
  return horner(x, multiply_add(q, x, vec<float, N>(d)), more...);
}
template <int N, class... More> AK_INLINE vec<float, N> polynomial(const vec<float, N>& x, float c, More... more) {
  return horner(x, vec<float, N>(c), more...);
}

// ---- exponentials ----
// p * 2^n for integral n in [-252, 254], rounded once.
template <int N> AK_INLINE vec<float, N> scale2(const vec<float, N>& p, const vec<float, N>& n) {
#if defined(AK_AVX512)
  if constexpr (is_wide<float, N>) { return {scale2(p.lo, n.lo), scale2(p.hi, n.hi)}; }
  else if constexpr (N >= 4) {
    vec<float, N> r;
    asm("vscalefps %2, %1, %0" : "=v"(r.r) : "v"(p.r), "v"(n.r));
    return r;
  } else
#endif
  {
    const vec<int32_t, N> k = to<int32_t>(n), h = k >> 1;
    return p * bits<float>((h + 127) << 23) * bits<float>((k - h + 127) << 23);
  }
}
#if defined(AK_AVX512)
// p * 2^n, rounded once, and 0 where x < -104: there p and n may be anything, and no denormal result is computed, which is slow.
template <int N> AK_INLINE vec<float, N> scale2_above(const vec<float, N>& x, const vec<float, N>& p, const vec<float, N>& n) {
  if constexpr (is_wide<float, N>) { return {scale2_above(x.lo, p.lo, n.lo), scale2_above(x.hi, p.hi, n.hi)}; }
  else {
    const vec<float, N> least(-104.0f);
    uint16_t far;
    vec<float, N> r;
    asm("vcmpps $5, %2, %1, %0" : "=Yk"(far) : "v"(x.r), "v"(least.r));  // not less: true of NaN
    asm("vscalefps %2, %1, %0%{%3%}%{z%}" : "=v"(r.r) : "v"(p.r), "v"(n.r), "Yk"(far));
    return r;
  }
}
// The lesser of x and `most`; NaN where x is.
template <int N> AK_INLINE vec<float, N> at_most(const vec<float, N>& x, float most) {
  if constexpr (is_wide<float, N>) { return {at_most(x.lo, most), at_most(x.hi, most)}; }
  else {
    vec<float, N> r;
    asm("vminps %2, %1, %0" : "=v"(r.r) : "v"(vec<float, N>(most).r), "v"(x.r));
    return r;
  }
}
#endif
// x = n ln2 + r with |r| <= ln2/2 and n integral, for |x| < 2^20. `t` is n + 1.5 * 2^23, so n stands in its lowest bits, too.
template <int N> AK_INLINE vec<float, N> reduce_ln2(const vec<float, N>& x, vec<float, N>& n, vec<float, N>& t) {
  const vec<float, N> shift(12582912.0f);
  t = multiply_add(x, vec<float, N>(1.44269504f), shift);
  n = t - shift;
  return multiply_add(n, vec<float, N>(-0x1.7f7d1cp-20f), multiply_add(n, vec<float, N>(-0x1.62e4p-1f), x));
}
// e^r for |r| <= ln2/2.
template <int N> AK_INLINE vec<float, N> exp_near_zero(const vec<float, N>& r) {
  const auto q = polynomial(r, 0x1.6a1a72p-10f, 0x1.123fc6p-7f, 0x1.555916p-5f, 0x1.55548ap-3f, 0x1.fffffcp-2f);
  return multiply_add(r * r, q, r) + 1.0f;
}
// For x in [-87, 88], where adding n to p's exponent is to multiply by 2^n; NaN gives anything.
template <int N> AK_INLINE vec<float, N> exp_small(const vec<float, N>& x) {
  AK_SPLIT(exp_small, x) {
    vec<float, N> n, t;
    const vec<float, N> p = exp_near_zero(reduce_ln2(x, n, t));
    return bits<float>(bits<int32_t>(p) + (bits<int32_t>(t) << 23));
  }
}
// For every x: denormal results, overflow, NaN.
template <int N> AK_INLINE vec<float, N> exp_large(const vec<float, N>& v) {
  AK_SPLIT(exp_large, v) {
    vec<float, N> n, t;
#if defined(AK_AVX512)
    if constexpr (N >= 4) {
      const vec<float, N> p = exp_near_zero(reduce_ln2(at_most(v, 89.0f), n, t));
      return scale2_above(v, p, n);
    }
#endif
    const auto zero = v < -104.0f;  // kept away from the scaling: denormal results are slow
    vec<float, N> x = select(zero, 0.0f, v);
    x = lesser(vec<float, N>(89.0f), x);
    const vec<float, N> p = exp_near_zero(reduce_ln2(x, n, t));
    return select(zero, 0.0f, scale2(p, n));
  }
}
template <int N> AK_INLINE vec<float, N> exp(const vec<float, N>& v) {
#if !defined(AK_AVX512)
  if (__builtin_expect(!any(~(abs(v) <= 87.0f)), 1)) return exp_small(v);
#endif
  return exp_large(v);
}
// e^r - 1 for |r| <= ln2/2.
template <int N> AK_INLINE vec<float, N> expm1_near_zero(const vec<float, N>& r) {
  const auto q = polynomial(r, 0x1.a0332ep-13f, 0x1.6d78d8p-10f, 0x1.11118ep-7f, 0x1.5554aap-5f, 0x1.555554p-3f, 0.5f);
  return multiply_add(r * r, q, r);
}
template <int N> AK_INLINE vec<float, N> expm1(const vec<float, N>& v) {
  AK_SPLIT(expm1, v) {
    vec<float, N> x = lesser(vec<float, N>(89.0f), larger(vec<float, N>(-20.0f), v)), n, t;
    const vec<float, N> r = reduce_ln2(x, n, t);
    const auto p = expm1_near_zero(r);
    const auto h = scale2(vec<float, N>(0.5f), n);  // half of 2^n: 2^128 would overflow too early
    const auto big = multiply_add(h, p, h - 0.5f) * 2.0f;
    return select(n == 0.0f, select(r == 0.0f, v, p), big);
  }
}
template <int N> AK_INLINE vec<float, N> sigmoid(const vec<float, N>& x) { return 1.0f / (1.0f + exp(-x)); }
template <int N> AK_INLINE vec<float, N> silu(const vec<float, N>& x) { return x / (1.0f + exp(-x)); }
template <int N> AK_INLINE vec<float, N> tanh(const vec<float, N>& x) {
  AK_SPLIT(tanh, x) {
    const auto a = abs(x);
    vec<float, N> n, t;
    const auto p = expm1_near_zero(reduce_ln2(select(a > 10.0f, vec<float, N>(20.0f), a + a), n, t));
    const auto power = bits<float>((bits<int32_t>(t) + 127) << 23);  // 2^n
    t = multiply_add(power, p, power - 1.0f);  // e^2a - 1
    const auto near = a < 0.55f;  // else 1 - 2 / (t + 2) loses less
    const auto q = select(near, t, -2.0f) / (t + 2.0f);
    return copysign(select(near, q, 1.0f + q), x);
  }
}

// ---- logarithms ----
// log(1 + f) for 1 + f in [sqrt(1/2), sqrt(2)]
template <int N> AK_INLINE vec<float, N> log_near_one(const vec<float, N>& f, const vec<float, N>& e) {
  const auto p = polynomial(f, 0x1.1457a8p-4f, -0x1.de3c16p-4f, 0x1.e6f06ap-4f, -0x1.fc2208p-4f, 0x1.233768p-3f, -0x1.555c4ep-3f,
                            0x1.99a4b6p-3f, -0x1.000006p-2f, 0x1.555548p-2f);
  const auto z = f * f;
  const auto y = multiply_add(z, vec<float, N>(-0.5f), multiply_add(f * z, p, e * 0x1.7f7d1cp-20f));
  return multiply_add(e, vec<float, N>(0x1.62e4p-1f), f + y);
}
// x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)], for normal positive x; gives f.
template <int N> AK_INLINE vec<float, N> reduce_log(const vec<float, N>& x, vec<float, N>& e) {
  const auto u = bits<int32_t>(x) - 0x3f3504f3;  // sqrt(1/2)
  e = to<float>(u >> 23);
  return bits<float>((u & 0x007fffff) + 0x3f3504f3) - 1.0f;
}
// For normal positive x.
template <int N> AK_INLINE vec<float, N> log_usual(const vec<float, N>& x) {
  AK_SPLIT(log_usual, x) {
    vec<float, N> e;
    const auto f = reduce_log(x, e);
    return log_near_one(f, e);
  }
}
// For every x: denormals, 0, negative numbers, infinity, NaN.
template <int N> AK_INLINE vec<float, N> log_any(const vec<float, N>& v) {
  AK_SPLIT(log_any, v) {
    const auto tiny = v < 0x1p-126f;
    vec<float, N> e;
    const auto f = reduce_log(select(tiny, v * 0x1p24f, v), e);
    const auto y = log_near_one(f, e - select(tiny, vec<float, N>(24.0f), vec<float, N>(0.0f)));
    const auto special = select(v == 0.0f, vec<float, N>(-INFINITY), select(v < 0.0f, vec<float, N>(NAN), v));
    return select((v > 0.0f) & (v < INFINITY), y, special);
  }
}
template <int N> AK_INLINE vec<float, N> log(const vec<float, N>& v) {
  if (__builtin_expect(!any(~((v >= 0x1p-126f) & (v <= 0x1.fffffep127f))), 1)) return log_usual(v);
  return log_any(v);
}
template <int N> AK_INLINE vec<float, N> log1p(const vec<float, N>& x) {
  AK_SPLIT(log1p, x) {
    const auto u = 1.0f + x;
    const auto lost = select(x > 1.0f, 1.0f - (u - x), x - (u - 1.0f));  // what rounding 1 + x lost
    if (__builtin_expect(!any(~((u >= 0x1p-126f) & (u <= 0x1.fffffep127f))), 1)) return select(u == 1.0f, x, log_usual(u) + lost / u);
    const auto any_u = log_any(u);
    return select((u > 0.0f) & (u < INFINITY), select(u == 1.0f, x, any_u + lost / u), any_u);
  }
}
template <int N> AK_INLINE vec<float, N> log2(const vec<float, N>& x) { return per_lane(x, [](float v) { return std::log2(v); }); }
template <int N> AK_INLINE vec<float, N> log10(const vec<float, N>& x) { return per_lane(x, [](float v) { return std::log10(v); }); }
template <int N> AK_INLINE vec<float, N> exp2(const vec<float, N>& x) { return per_lane(x, [](float v) { return std::exp2(v); }); }

// ---- error function ----
#if defined(AK_AVX512) || (defined(AK_AVX2) && defined(__FMA__))
// For each lane the number that the lowest two bits of `i` choose.
template <int N> AK_INLINE vec<float, N> one_of_four(const vec<float, N>& i, float a, float b, float c, float d) {
  if constexpr (is_wide<float, N>) { return {one_of_four(i.lo, a, b, c, d), one_of_four(i.hi, a, b, c, d)}; }
  else if constexpr (N == 16) {
    const raw<float, N> four{a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d};
    vec<float, N> r;
    asm("vpermilps %2, %1, %0" : "=v"(r.r) : "v"(four), "v"(i.r));
    return r;
  } else if constexpr (N == 8) {
    return vec<float, N>(__builtin_ia32_vpermilvarps256(raw<float, N>{a, b, c, d, a, b, c, d}, bits<int32_t>(i).r));
  } else {
    static_assert(N == 4, "whole registers");
    return vec<float, N>(__builtin_ia32_vpermilvarps(raw<float, N>{a, b, c, d}, bits<int32_t>(i).r));
  }
}
// One polynomial for each quarter of |x|, about 9/8 k, up to where a float's erf is 1; in the first one of erf(x) / x - 1.
template <int N> AK_INLINE vec<float, N> erf(const vec<float, N>& x) {
  if constexpr (N < 4) { return per_lane(x, [](float v) { return std::erf(v); }); }
  else AK_SPLIT(erf, x) {
    const auto b = abs(x);
    const auto a = lesser(vec<float, N>(3.93f), b);
    const vec<float, N> shift(12582912.0f);
    const auto t = multiply_add(a, vec<float, N>(0x1.c71c72p-1f), shift);  // k stands in its lowest bits
    const auto r = multiply_add(t - shift, vec<float, N>(-1.125f), a);
    auto y = one_of_four(t, 0, 0x1.7dfb6ap-10f, -0x1.2d9e26p-11f, -0x1.a3983cp-11f);
    y = multiply_add(y, r, one_of_four(t, 0x1.2dec76p-8f, -0x1.f8ddacp-12f, -0x1.48ba2ep-12f, 0x1.5780bap-16f));
    y = multiply_add(y, r, one_of_four(t, 0, -0x1.a11812p-8f, 0x1.83f40cp-10f, 0x1.4e85f4p-11f));
    y = multiply_add(y, r, one_of_four(t, -0x1.b587b4p-6f, 0x1.3bd3dp-7f, -0x1.68bdeep-11f, 0x1.adbf3cp-14f));
    y = multiply_add(y, r, one_of_four(t, 0, 0x1.00686ep-6f, -0x1.907994p-9f, -0x1.7f77fcp-12f));
    y = multiply_add(y, r, one_of_four(t, 0x1.ce1d5p-4f, -0x1.f663b6p-5f, 0x1.5d4f84p-7f, 0x1.576046p-13f));
    y = multiply_add(y, r, one_of_four(t, 0, 0x1.ca0c58p-6f, -0x1.385214p-6f, -0x1.d3c79ep-14f));
    y = multiply_add(y, r, one_of_four(t, -0x1.81272p-2f, 0x1.4cb3d8p-3f, 0x1.63eecep-6f, 0x1.8454a4p-14f));
    y = multiply_add(y, r, one_of_four(t, 0, -0x1.6ea69p-2f, -0x1.07505p-6f, -0x1.7769a4p-15f));
    y = multiply_add(y, r, one_of_four(t, 0x1.06eba8p-3f, 0x1.45e99cp-2f, 0x1.d41444p-8f, 0x1.abe04ep-17f));
    return copysign(multiply_add(y, r, select(a < 0.5625f, a, one_of_four(t, 0, 0x1.c6dad2p-1f, 0x1.ff4048p-1f, 0x1.ffffc4p-1f))), x);
  }
}
#else
template <int N> AK_INLINE vec<float, N> erf(const vec<float, N>& x) {
  AK_SPLIT(erf, x) {
    const auto a = abs(x);
    const auto z = x * x;
    const auto near = polynomial(z, 0x1.496a32p-14f, -0x1.a3f7p-11f, 0x1.5405b2p-8f, -0x1.b7f90ep-6f, 0x1.ce2cf8p-4f, -0x1.81273ep-2f,
                                 0x1.06eba8p-3f);  // erf(x) / x - 1
    const auto t = lesser(vec<float, N>(4.0f), a);
    const auto q = polynomial(t, -0x1.6c0698p-16f, 0x1.ceeaf4p-12f, -0x1.1398fcp-8f, 0x1.9d0bd6p-6f, -0x1.bc18dp-4f, -0x1.4434fp-1f,
                              -0x1.212c2cp+0f, 0x1.8b3f4p-13f);
    const auto far = copysign(1.0f - exp_small(q), x);
    return select(a < 1.0f, multiply_add(x, near, x), select(x == x, far, x));
  }
}
#endif
template <int N> AK_INLINE vec<float, N> erfc(const vec<float, N>& x) { return per_lane(x, [](float v) { return std::erfc(v); }); }

// ---- circular functions ----
// x = n pi/2 + r with |r| slightly above pi/4 at most, for |x| <= 1e5. Where products and sums are rounded at once: pi/2 in three
// parts, of which the first is a multiple of 2^-22, so that what it leaves of x is exact; and each further step is rounded
// relative to what is left. No part is negative, so that -0 stays -0. `quadrant` has n in its lowest bits.
template <int N> AK_INLINE vec<float, N> reduce_half_pi(const vec<float, N>& x, vec<int32_t, N>& quadrant) {
#if defined(AK_AVX512) || (defined(AK_AVX2) && defined(__FMA__))
  const vec<float, N> shift(12582912.0f);
  const vec<float, N> t = multiply_add(x, vec<float, N>(0x1.45f306p-1f), shift), n = t - shift;
  quadrant = bits<int32_t>(t);
  const auto r = multiply_add(n, vec<float, N>(-0x1.4442dp-24f), multiply_add(n, vec<float, N>(-0x1.921fb4p+0f), x));
  return multiply_add(n, vec<float, N>(-0x1.84698ap-48f), r);
#else
  const vec<double, N> d = to<double>(x);
  const vec<double, N> n = (d * 0x1.45f306dc9c883p-1 + 0x1.8p52) - 0x1.8p52;
  quadrant = to<int32_t>(n);
  return to<float>((d - n * 0x1.921fb544p+0) - n * 0x1.0b4611a626331p-34);
#endif
}
// Beyond 1e5 the reduction loses digits: those lanes take libm's way.
template <int Shift, int N> AK_INLINE vec<float, N> circular(const vec<float, N>& x) {
  vec<int32_t, N> quadrant;
  const vec<float, N> r = reduce_half_pi(x, quadrant);
  quadrant = quadrant + Shift;
  const auto z = r * r;
  auto s = multiply_add(r * z, polynomial(z, 0x1.6cb802p-19f, -0x1.a00f12p-13f, 0x1.111108p-7f, -0x1.555556p-3f), r);
  s = bits<float>(bits<int32_t>(s) | (bits<int32_t>(r) & int32_t(0x80000000)));  // of -0, too
  const auto c = multiply_add(z * z, polynomial(z, -0x1.240b06p-22f, 0x1.a0107ep-16f, -0x1.6c16b8p-10f, 0x1.555556p-5f),
                              multiply_add(z, vec<float, N>(-0.5f), vec<float, N>(1.0f)));
  const auto y = select((quadrant & 1) == 0, s, c);
  return bits<float>(bits<int32_t>(y) ^ ((quadrant & 2) << 30));
}
template <int N> AK_INLINE vec<float, N> sin(const vec<float, N>& x) {
  if (__builtin_expect(any(~(abs(x) <= 1e5f)), 0)) return per_lane(x, [](float v) { return std::sin(v); });
  return circular<0>(x);
}
template <int N> AK_INLINE vec<float, N> cos(const vec<float, N>& x) {
  if (__builtin_expect(any(~(abs(x) <= 1e5f)), 0)) return per_lane(x, [](float v) { return std::cos(v); });
  return circular<1>(x);
}

// ---- division of many by one ----
// Multiplies by the reciprocal where that is a normal number (an error of one more half ULP), else divides.
struct divisor {
  float d, r;
  bool quick;
  AK_INLINE explicit divisor(float x) : d(x), r(1.0f / x), quick(!(std::fabs(x) < 0x1p-125f || std::fabs(x) > 0x1p125f)) {}
};
template <int N> AK_INLINE vec<float, N> operator/(const vec<float, N>& a, const divisor& b) { return b.quick ? a * b.r : a / b.d; }

// ---- odds and ends ----
template <int N> AK_INLINE mask<N> invert(const mask<N>& x) { return ~x; }
AK_INLINE bool invert(bool x) { return !x; }
template <class To, int N> AK_INLINE vec<int32_t, N> wrap(const vec<int32_t, N>& x) { return to<int32_t>(to<To>(x)); }
template <class To> AK_INLINE int32_t wrap(int32_t x) { return To(x); }

// ---- powers ----
template <int N> AK_INLINE vec<float, N> pow(const vec<float, N>& a, const vec<float, N>& b) { return per_lane(a, b, [](float x, float y) { return std::pow(x, y); }); }
template <class T, int N> AK_INLINE vec<T, N> fmod(const vec<T, N>& a, const vec<T, N>& b) { return per_lane(a, b, [](T x, T y) { return std::fmod(x, y); }); }
template <class T> AK_INLINE T python_mod(T x, T y) { const T r = std::fmod(x, y); return r != 0 && (r < 0) != (y < 0) ? r + y : r; }
template <class T, int N> AK_INLINE vec<T, N> remainder(const vec<T, N>& a, const vec<T, N>& b) { return per_lane(a, b, [](T x, T y) { return python_mod(x, y); }); }
template <class T, int N> AK_INLINE vec<T, N> atan2(const vec<T, N>& a, const vec<T, N>& b) { return per_lane(a, b, [](T x, T y) { return std::atan2(x, y); }); }
// x^K by repeated squaring, for a small integer K >= 1.
template <int K, class V> AK_INLINE V power(const V& x) {
  if constexpr (K == 1) { return x; }
  else if constexpr (K == 2) { return x * x; }
  else if constexpr (K == 3) { return x * x * x; }
  else { const V h = power<K / 2>(x); if constexpr (K % 2) { return h * h * x; } else { return h * h; } }
}

// ---- float functions through libm, and all of double's ----
#define AK_LIBM_FLOAT(f) template <int N> AK_INLINE vec<float, N> f(const vec<float, N>& x) { return per_lane(x, [](float v) { return std::f(v); }); }
#define AK_LIBM_DOUBLE(f) template <int N> AK_INLINE vec<double, N> f(const vec<double, N>& x) { return per_lane(x, [](double v) { return std::f(v); }); }
#define AK_LIBM(f) AK_LIBM_FLOAT(f) AK_LIBM_DOUBLE(f)
AK_LIBM(tan) AK_LIBM(asin) AK_LIBM(acos) AK_LIBM(atan) AK_LIBM(sinh) AK_LIBM(cosh) AK_LIBM(asinh) AK_LIBM(acosh) AK_LIBM(atanh)
AK_LIBM_DOUBLE(exp) AK_LIBM_DOUBLE(exp2) AK_LIBM_DOUBLE(expm1) AK_LIBM_DOUBLE(log) AK_LIBM_DOUBLE(log2) AK_LIBM_DOUBLE(log10)
AK_LIBM_DOUBLE(log1p) AK_LIBM_DOUBLE(tanh) AK_LIBM_DOUBLE(erf) AK_LIBM_DOUBLE(erfc) AK_LIBM_DOUBLE(sin) AK_LIBM_DOUBLE(cos)
AK_LIBM_DOUBLE(floor) AK_LIBM_DOUBLE(ceil) AK_LIBM_DOUBLE(trunc)
template <int N> AK_INLINE vec<double, N> round(const vec<double, N>& x) { return per_lane(x, [](double v) { return std::nearbyint(v); }); }
template <int N> AK_INLINE vec<double, N> pow(const vec<double, N>& a, const vec<double, N>& b) { return per_lane(a, b, [](double x, double y) { return std::pow(x, y); }); }
template <int N> AK_INLINE vec<double, N> sigmoid(const vec<double, N>& x) { return 1.0 / (1.0 + exp(-x)); }
template <int N> AK_INLINE vec<double, N> silu(const vec<double, N>& x) { return x / (1.0 + exp(-x)); }

// ---- the same names on scalars ----
template <class T> using if_real = std::enable_if_t<std::is_floating_point_v<T>, T>;
#define AK_SCALAR(f) template <class T> AK_INLINE if_real<T> f(T x) { return std::f(x); }
AK_SCALAR(exp) AK_SCALAR(exp2) AK_SCALAR(expm1) AK_SCALAR(log) AK_SCALAR(log2) AK_SCALAR(log10) AK_SCALAR(log1p) AK_SCALAR(tanh)
AK_SCALAR(erf) AK_SCALAR(erfc) AK_SCALAR(sin) AK_SCALAR(cos) AK_SCALAR(tan) AK_SCALAR(asin) AK_SCALAR(acos) AK_SCALAR(atan)
AK_SCALAR(sinh) AK_SCALAR(cosh) AK_SCALAR(asinh) AK_SCALAR(acosh) AK_SCALAR(atanh) AK_SCALAR(floor) AK_SCALAR(ceil) AK_SCALAR(trunc)
AK_SCALAR(sqrt)
template <class T> AK_INLINE if_real<T> round(T x) { return std::nearbyint(x); }
template <class T> AK_INLINE if_real<T> rsqrt(T x) { return T(1) / std::sqrt(x); }
template <class T> AK_INLINE if_real<T> reciprocal(T x) { return T(1) / x; }
template <class T> AK_INLINE if_real<T> sigmoid(T x) { return T(1) / (T(1) + std::exp(-x)); }
template <class T> AK_INLINE if_real<T> silu(T x) { return x / (T(1) + std::exp(-x)); }
template <class T> AK_INLINE std::enable_if_t<std::is_arithmetic_v<T>, T> abs(T x) {
  if constexpr (std::is_floating_point_v<T>) { return std::fabs(x); } else { return x < 0 ? -x : x; }
}
template <class T> AK_INLINE std::enable_if_t<std::is_arithmetic_v<T>, T> sign(T x) { return T(x > 0) - T(x < 0); }
template <class T> AK_INLINE std::enable_if_t<std::is_floating_point_v<T>, bool> isnan(T x) { return x != x; }
template <class T> AK_INLINE std::enable_if_t<std::is_floating_point_v<T>, bool> isinf(T x) { return std::fabs(x) == std::numeric_limits<T>::infinity(); }
template <class T> AK_INLINE if_real<T> pow(T a, same_t<T> b) { return std::pow(a, b); }
template <class T> AK_INLINE if_real<T> fmod(T a, same_t<T> b) { return std::fmod(a, b); }
template <class T> AK_INLINE if_real<T> remainder(T a, same_t<T> b) { return python_mod(a, b); }
template <class T> AK_INLINE if_real<T> atan2(T a, same_t<T> b) { return std::atan2(a, b); }
template <class To, class T> AK_INLINE std::enable_if_t<std::is_arithmetic_v<T>, To> to(T x) { return To(x); }

#undef AK_SPLIT
#undef AK_LIBM
#undef AK_LIBM_FLOAT
#undef AK_LIBM_DOUBLE
#undef AK_SCALAR

}  // namespace ak
