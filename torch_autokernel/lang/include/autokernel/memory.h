// Loads and stores: contiguous, strided, indexed; whole steps and partial ones; bf16, fp16, bool and small integers.
#pragma once
#include <autokernel/vec.h>

namespace ak {

template <int N> AK_INLINE uint64_t lane_bits(int64_t n) { return n >= 64 ? ~0ull : (1ull << n) - 1; }
template <int N> AK_INLINE all<N / 2> low(all<N>) { return {}; }
template <int N> AK_INLINE all<N / 2> high(all<N>) { return {}; }
template <int N> AK_INLINE first<N / 2> low(first<N> m) { return {m.n < N / 2 ? m.n : N / 2}; }
template <int N> AK_INLINE first<N / 2> high(first<N> m) { return {m.n > N / 2 ? m.n - N / 2 : 0}; }

// ---- plain elements ----
template <class T, int N> AK_INLINE vec<T, N> load(const T* p, all<N>) {
  if constexpr (is_wide<T, N>) { return {load(p, all<N / 2>{}), load(p + N / 2, all<N / 2>{})}; }
  else { return vec<T, N>(*reinterpret_cast<const raw_loose<T, N>*>(p)); }
}
template <class T, int N> AK_INLINE vec<T, N> load(const T* p, first<N> m) {
  if constexpr (is_wide<T, N>) { return {load(p, low(m)), load(p + N / 2, high(m))}; }
  else {
    raw<T, N> r;
#if defined(AK_AVX512)
    const auto& at = *reinterpret_cast<const raw_loose<T, N>*>(p);
    const uint64_t k = lane_bits<N>(m.n);
    if constexpr (sizeof(T) == 8) { asm("vmovupd %1, %0%{%2%}%{z%}" : "=v"(r) : "m"(at), "Yk"((uint8_t)k)); return vec<T, N>(r); }
    if constexpr (sizeof(T) == 4) { asm("vmovups %1, %0%{%2%}%{z%}" : "=v"(r) : "m"(at), "Yk"((uint16_t)k)); return vec<T, N>(r); }
    if constexpr (sizeof(T) == 2 && N >= 8) { asm("vmovdqu16 %1, %0%{%2%}%{z%}" : "=v"(r) : "m"(at), "Yk"((uint32_t)k)); return vec<T, N>(r); }
    if constexpr (sizeof(T) == 1 && N >= 16) { asm("vmovdqu8 %1, %0%{%2%}%{z%}" : "=v"(r) : "m"(at), "Yk"(k)); return vec<T, N>(r); }
#elif defined(AK_AVX2)
    if constexpr (sizeof(T) >= 4) {
      const auto& at = *reinterpret_cast<const raw_loose<T, N>*>(p);
      const auto k = lanes<mask_int<T>, N>().r < (mask_int<T>)m.n;
      if constexpr (sizeof(T) == 8) { asm("vmaskmovpd %1, %2, %0" : "=x"(r) : "m"(at), "x"(k)); }
      else { asm("vmaskmovps %1, %2, %0" : "=x"(r) : "m"(at), "x"(k)); }
      return vec<T, N>(r);
    }
#endif
    T t[N] = {};
    for (int i = 0; i < N && i < m.n; ++i) t[i] = p[i];
    std::memcpy(&r, t, sizeof r);
    return vec<T, N>(r);
  }
}
template <class T, int N> AK_INLINE void store(T* p, const vec<T, N>& v, all<N>) {
  if constexpr (is_wide<T, N>) { store(p, v.lo, all<N / 2>{}); store(p + N / 2, v.hi, all<N / 2>{}); }
  else { *reinterpret_cast<raw_loose<T, N>*>(p) = v.r; }
}
template <class T, int N> AK_INLINE void store(T* p, const vec<T, N>& v, first<N> m) {
  if constexpr (is_wide<T, N>) { store(p, v.lo, low(m)); store(p + N / 2, v.hi, high(m)); }
  else {
#if defined(AK_AVX512)
    auto& at = *reinterpret_cast<raw_loose<T, N>*>(p);
    const uint64_t k = lane_bits<N>(m.n);
    if constexpr (sizeof(T) == 8) { asm("vmovupd %1, %0%{%2%}" : "+m"(at) : "v"(v.r), "Yk"((uint8_t)k)); return; }
    if constexpr (sizeof(T) == 4) { asm("vmovups %1, %0%{%2%}" : "+m"(at) : "v"(v.r), "Yk"((uint16_t)k)); return; }
    if constexpr (sizeof(T) == 2 && N >= 8) { asm("vmovdqu16 %1, %0%{%2%}" : "+m"(at) : "v"(v.r), "Yk"((uint32_t)k)); return; }
    if constexpr (sizeof(T) == 1 && N >= 16) { asm("vmovdqu8 %1, %0%{%2%}" : "+m"(at) : "v"(v.r), "Yk"(k)); return; }
#elif defined(AK_AVX2)
    if constexpr (sizeof(T) >= 4) {
      auto& at = *reinterpret_cast<raw_loose<T, N>*>(p);
      const auto k = lanes<mask_int<T>, N>().r < (mask_int<T>)m.n;
      if constexpr (sizeof(T) == 8) { asm("vmaskmovpd %1, %2, %0" : "+m"(at) : "x"(v.r), "x"(k)); }
      else { asm("vmaskmovps %1, %2, %0" : "+m"(at) : "x"(v.r), "x"(k)); }
      return;
    }
#endif
    T t[N];
    std::memcpy(t, &v, sizeof t);
    for (int i = 0; i < N && i < m.n; ++i) p[i] = t[i];
  }
}

// A store past the caches, for results that nobody reads soon. Falls back to a plain one where p is not aligned.
template <class T, int N, class M> AK_INLINE void stream(T* p, const vec<T, N>& v, M m) {
#if defined(AK_AVX512) || defined(AK_AVX2)
  if constexpr (is_wide<T, N>) {
    if constexpr (std::is_same_v<M, all<N>>) { stream(p, v.lo, all<N / 2>{}); stream(p + N / 2, v.hi, all<N / 2>{}); return; }
  } else if constexpr (std::is_same_v<M, all<N>> && N * sizeof(T) == AK_BYTES) {
    if ((reinterpret_cast<uintptr_t>(p) & (AK_BYTES - 1)) == 0) {
      asm("vmovntps %1, %0" : "=m"(*reinterpret_cast<raw_loose<T, N>*>(p)) : "v"(v.r));
      return;
    }
  }
#endif
  store(p, v, m);
}
AK_INLINE void stream_end() {
#if defined(AK_AVX512) || defined(AK_AVX2)
  asm volatile("sfence" ::: "memory");
#endif
}

// ---- bf16: the upper half of a float; rounding is to nearest even, NaN stays NaN ----
template <int N> AK_INLINE vec<float, N> from_bf16(const vec<uint16_t, N>& h) { return bits<float>(to<uint32_t>(h) << 16u); }
// Numbers whose upper half is the bf16; what the lower half holds is of no use.
template <int N> AK_INLINE vec<uint32_t, N> bf16_above(const vec<float, N>& v) {
  const vec<uint32_t, N> u = bits<uint32_t>(v);
  return select(v == v, u + ((u >> 16u) & 1u) + 0x7fffu, vec<uint32_t, N>(0x7fc00000u));
}
template <int N> AK_INLINE vec<uint16_t, N> upper_halves(const vec<uint32_t, N>& u) {
#if defined(AK_AVX2)
  if constexpr (N > 16) { return {upper_halves(u.lo), upper_halves(u.hi)}; }
  if constexpr (N == 16) {
    const auto lo = u.lo >> 16u, hi = u.hi >> 16u;
    vec<uint16_t, N> r;
    asm("vpackusdw %2, %1, %0\n\tvpermq $216, %0, %0" : "=x"(r.r) : "x"(lo.r), "x"(hi.r));
    return r;
  }
#endif
  return to<uint16_t>(u >> 16u);
}
template <int N> AK_INLINE vec<uint16_t, N> to_bf16(const vec<float, N>& v) { return upper_halves(bf16_above(v)); }
template <int N> AK_INLINE vec<float, N> round_bf16(const vec<float, N>& v) { return bits<float>(bf16_above(v) & 0xffff0000u); }
AK_INLINE float from_bf16(uint16_t h) { uint32_t u = uint32_t(h) << 16; float f; std::memcpy(&f, &u, 4); return f; }
AK_INLINE uint16_t to_bf16(float f) {
  uint32_t u; std::memcpy(&u, &f, 4);
  return f == f ? uint16_t((u + ((u >> 16) & 1) + 0x7fff) >> 16) : uint16_t(0x7fc0);
}
AK_INLINE float round_bf16(float f) { return from_bf16(to_bf16(f)); }

// ---- fp16 ----
AK_INLINE float from_f16(uint16_t h) {
#if defined(__F16C__)
  float out; raw<uint16_t, 8> in = {h}; raw<float, 4> r;
  asm("vcvtph2ps %1, %0" : "=x"(r) : "x"(in)); out = r[0]; return out;
#else
  const uint32_t sign = uint32_t(h & 0x8000) << 16, rest = h & 0x7fff;
  float f; uint32_t u;
  if (rest >= 0x7c00) { u = sign | 0x7f800000 | (rest & 0x3ff) << 13; }
  else if (rest >= 0x400) { u = sign | ((rest << 13) + 0x38000000); }
  else { f = float(rest) * 5.9604644775390625e-8f; std::memcpy(&u, &f, 4); u |= sign; }
  std::memcpy(&f, &u, 4); return f;
#endif
}
AK_INLINE uint16_t to_f16(float f) {
#if defined(__F16C__)
  raw<float, 4> in = {f}; raw<uint16_t, 8> r;
  asm("vcvtps2ph $0, %1, %0" : "=x"(r) : "x"(in)); return r[0];
#else
  uint32_t u; std::memcpy(&u, &f, 4);
  const uint32_t sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
  if (a > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (a >= 0x477ff000) return uint16_t(sign | 0x7c00);
  if (a < 0x38800000) {  // a denormal half: let one addition do the rounding
    float g, magic = 0.5f; std::memcpy(&g, &a, 4); g += magic;
    uint32_t v; std::memcpy(&v, &g, 4); return uint16_t(sign | (v - 0x3f000000));
  }
  return uint16_t(sign | ((a + 0xfff + ((a >> 13) & 1) - 0x38000000) >> 13));
#endif
}
template <int N> AK_INLINE vec<float, N> from_f16(const vec<uint16_t, N>& h) {
  if constexpr (is_wide<float, N>) { return join(from_f16(low(h)), from_f16(high(h))); }
  else {
    vec<float, N> out;
#if defined(__F16C__)
    if constexpr (N == 16 || N == 8) { asm("vcvtph2ps %1, %0" : "=v"(out.r) : "v"(h.r)); return out; }
#endif
    for (int i = 0; i < N; ++i) out.r[i] = from_f16(uint16_t(h.r[i]));
    return out;
  }
}
template <int N> AK_INLINE vec<uint16_t, N> to_f16(const vec<float, N>& v) {
  if constexpr (is_wide<float, N>) { return join(to_f16(v.lo), to_f16(v.hi)); }
  else {
    vec<uint16_t, N> out;
#if defined(__F16C__)
    if constexpr (N == 16 || N == 8) { asm("vcvtps2ph $0, %1, %0" : "=v"(out.r) : "v"(v.r)); return out; }
#endif
    for (int i = 0; i < N; ++i) out.r[i] = to_f16(float(v.r[i]));
    return out;
  }
}
template <int N> AK_INLINE vec<float, N> round_f16(const vec<float, N>& v) { return from_f16(to_f16(v)); }
AK_INLINE float round_f16(float f) { return from_f16(to_f16(f)); }

// ---- the element kinds of tensors: how they lie in memory (Mem) and what they are computed in (Reg) ----
template <class T> struct plain {
  using Mem = T;
  template <int N> static AK_INLINE vec<T, N> in(const vec<T, N>& v) { return v; }
  template <int N> static AK_INLINE vec<T, N> out(const vec<T, N>& v) { return v; }
  static AK_INLINE T in(T v) { return v; }
  static AK_INLINE T out(T v) { return v; }
};
struct f64 : plain<double> {};
struct f32 : plain<float> {};
struct i64 : plain<int64_t> {};
struct i32 : plain<int32_t> {};
template <class T> struct narrow {
  using Mem = T;
  template <int N> static AK_INLINE vec<int32_t, N> in(const vec<T, N>& v) { return to<int32_t>(v); }
  template <int N> static AK_INLINE vec<T, N> out(const vec<int32_t, N>& v) { return to<T>(v); }
  static AK_INLINE int32_t in(T v) { return v; }
  static AK_INLINE T out(int32_t v) { return T(v); }
};
struct i16 : narrow<int16_t> {};
struct i8 : narrow<int8_t> {};
struct u8 : narrow<uint8_t> {};
struct bf16 {
  using Mem = uint16_t;
  template <class V> static AK_INLINE auto in(const V& v) { return from_bf16(v); }
  template <class V> static AK_INLINE auto out(const V& v) { return to_bf16(v); }
};
struct half_bits : plain<uint16_t> {};  // bf16 or fp16 that is only moved
struct bf16_held : bf16 {  // of values that are rounded already
  template <int N> static AK_INLINE vec<uint16_t, N> out(const vec<float, N>& v) { return upper_halves(bits<uint32_t>(v)); }
  static AK_INLINE uint16_t out(float f) { uint32_t u; std::memcpy(&u, &f, 4); return uint16_t(u >> 16); }
};
struct f16 {
  using Mem = uint16_t;
  template <class V> static AK_INLINE auto in(const V& v) { return from_f16(v); }
  template <class V> static AK_INLINE auto out(const V& v) { return to_f16(v); }
};
struct b8 {
  using Mem = bool;
  template <int N> static AK_INLINE mask<N> in(const vec<uint8_t, N>& v) { return to<int32_t>(v) != 0; }
  template <int N> static AK_INLINE vec<uint8_t, N> out(const mask<N>& v) { return to<uint8_t>(v); }
  static AK_INLINE bool in(bool v) { return v; }
  static AK_INLINE bool out(bool v) { return v; }
};
template <class E> using mem_t = std::conditional_t<std::is_same_v<typename E::Mem, bool>, uint8_t, typename E::Mem>;

template <class E> constexpr bool is_widened = std::is_base_of_v<narrow<typename E::Mem>, E> || std::is_base_of_v<bf16, E> || std::is_same_v<E, f16>;

// Narrow elements whose values take more than one register are widened register by register, from memory: compilers widen the
// upper part of a register element by element.
template <class E, class M> AK_INLINE auto get(const typename E::Mem* p, M m) {
  constexpr int N = M::lanes;
  if constexpr (is_widened<E> && is_wide<int32_t, N>) {
    const auto lower = get<E>(p, low(m));
    return vec<typename std::decay_t<decltype(lower)>::type, N>(lower, get<E>(p + N / 2, high(m)));
  } else if constexpr (std::is_same_v<E, b8> && is_wide<int32_t, N>) {
    return mask<N>(join(get<E>(p, low(m)).m, get<E>(p + N / 2, high(m)).m));
  } else { return E::in(load(reinterpret_cast<const mem_t<E>*>(p), m)); }
}
template <class E> AK_INLINE auto get(const typename E::Mem* p) { return E::in(*p); }
template <class E, class V, class M> AK_INLINE void put(typename E::Mem* p, const V& v, M m) {
  constexpr int N = M::lanes;
  if constexpr (std::is_base_of_v<narrow<typename E::Mem>, E> && is_wide<int32_t, N>) {
    put<E>(p, low(v), low(m));
    put<E>(p + N / 2, high(v), high(m));
  } else if constexpr (std::is_same_v<E, b8> && is_wide<int32_t, N>) {
    put<E>(p, mask<N / 2>(low(v.m)), low(m));
    put<E>(p + N / 2, mask<N / 2>(high(v.m)), high(m));
  } else { store(reinterpret_cast<mem_t<E>*>(p), E::out(v), m); }
}
template <class E, class V> AK_INLINE void put(typename E::Mem* p, V v) { *p = E::out(v); }
template <class E, class V, class M> AK_INLINE void put_stream(typename E::Mem* p, const V& v, M m) { stream(reinterpret_cast<mem_t<E>*>(p), E::out(v), m); }

// Asks for the N elements at p, which may be beyond the end: they are only hinted at.
template <int N, class T> AK_INLINE void prefetch(const T* p) {
  for (int64_t at = 0; at < int64_t(N * sizeof(T)); at += 64) __builtin_prefetch(reinterpret_cast<const char*>(p) + at, 0, 2);
}

// Lanes that lie `step` elements apart, and lanes at given offsets.
template <int N> AK_INLINE int64_t count(all<N>) { return N; }
template <int N> AK_INLINE int64_t count(first<N> m) { return m.n; }
template <class E, class M> AK_INLINE auto get_strided(const typename E::Mem* p, int64_t step, M m) {
  alignas(AK_BYTES) mem_t<E> t[M::lanes] = {};
  for (int i = 0; i < count(m); ++i) t[i] = p[i * step];
  return E::in(load(t, all<M::lanes>{}));
}
// Every second element: two loads that end with the last one that is asked for, and a shuffle.
#if defined(AK_SHUFFLES)
template <class V, int... I> AK_INLINE auto even_then_odd(const V& a, const V& b, std::integer_sequence<int, I...>) {
  constexpr int half = sizeof...(I) / 2;
  return __builtin_shufflevector(a, b, (I < half ? 2 * I : 2 * I + 1)...);
}
AK_INLINE int64_t at_most(int64_t n, int64_t most) { return n < 0 ? 0 : n < most ? n : most; }
template <class T, int N> AK_INLINE vec<T, N> load_every_other(const T* p, all<N> m) {
  if constexpr (is_wide<T, N>) { return {load_every_other(p, all<N / 2>{}), load_every_other(p + N, all<N / 2>{})}; }
  else { return vec<T, N>(even_then_odd(load(p, m).r, load(p + (N - 1), m).r, std::make_integer_sequence<int, N>{})); }
}
template <class T, int N> AK_INLINE vec<T, N> load_every_other(const T* p, first<N> m) {
  if constexpr (is_wide<T, N>) { return {load_every_other(p, low(m)), load_every_other(p + N, high(m))}; }
  else {
    const auto a = load(p, first<N>{at_most(2 * m.n - 1, N)}), b = load(p + (N - 1), first<N>{at_most(2 * m.n - N, N)});
    return vec<T, N>(even_then_odd(a.r, b.r, std::make_integer_sequence<int, N>{}));
  }
}
template <class E, class M> AK_INLINE auto get_every_other(const typename E::Mem* p, M m) {
  using T = mem_t<E>;
  if constexpr (M::lanes >= 4 && (sizeof(T) >= 4 || std::is_same_v<M, all<M::lanes>>)) {
    return E::in(load_every_other(reinterpret_cast<const T*>(p), m));
  } else { return get_strided<E>(p, 2, m); }
}
#else
template <class E, class M> AK_INLINE auto get_every_other(const typename E::Mem* p, M m) { return get_strided<E>(p, 2, m); }
#endif
template <class E, class M> AK_INLINE auto get_at(const typename E::Mem* p, const vec<int64_t, M::lanes>& at, M m) {
  alignas(AK_BYTES) int64_t o[M::lanes];
  alignas(AK_BYTES) mem_t<E> t[M::lanes] = {};
  store(o, at, all<M::lanes>{});
  for (int i = 0; i < count(m); ++i) t[i] = p[o[i]];
  return E::in(load(t, all<M::lanes>{}));
}
template <class E, class V, class M> AK_INLINE void put_strided(typename E::Mem* p, const V& v, int64_t step, M m) {
  alignas(AK_BYTES) mem_t<E> t[M::lanes];
  store(t, E::out(v), all<M::lanes>{});
  for (int i = 0; i < count(m); ++i) p[i * step] = t[i];
}

// Lanes of a and b by turns.
template <class T, int N, int... I> AK_INLINE vec<T, N> zipped(const vec<T, N>& a, const vec<T, N>& b, int from, std::integer_sequence<int, I...>) {
  vec<T, N> r;
#if defined(AK_SHUFFLES)
  if (from == 0) { r.r = __builtin_shufflevector(a.r, b.r, (I / 2 + I % 2 * N)...); }
  else { r.r = __builtin_shufflevector(a.r, b.r, (N / 2 + I / 2 + I % 2 * N)...); }
#else
  for (int i = 0; i < N; ++i) r.r[i] = i % 2 ? b.r[from + i / 2] : a.r[from + i / 2];
#endif
  return r;
}
template <bool Past, class T, int N> AK_INLINE void store_pairs(T* p, const vec<T, N>& a, const vec<T, N>& b) {
  if constexpr (is_wide<T, N>) { store_pairs<Past>(p, a.lo, b.lo); store_pairs<Past>(p + N, a.hi, b.hi); }
  else if constexpr (N == 1) { store(p, a, all<1>{}), store(p + 1, b, all<1>{}); }
  else {
    const auto i = std::make_integer_sequence<int, N>{};
    const vec<T, N> low = zipped(a, b, 0, i), high = zipped(a, b, N / 2, i);
    if constexpr (Past) { stream(p, low, all<N>{}); stream(p + N, high, all<N>{}); }
    else { store(p, low, all<N>{}); store(p + N, high, all<N>{}); }
  }
}
// Lanes of a two apart, those of b between them; past the caches where `Past`.
template <class E, bool Past, class V, class M> AK_INLINE void put_pairs(typename E::Mem* p, const V& a, const V& b, M m) {
  using T = mem_t<E>;
  T* to = reinterpret_cast<T*>(p);
  const auto x = E::out(a), y = E::out(b);
  if constexpr (std::is_same_v<M, all<M::lanes>>) { store_pairs<Past>(to, x, y); }
  else {
    alignas(AK_BYTES) T t[M::lanes], u[M::lanes];
    store(t, x, all<M::lanes>{});
    store(u, y, all<M::lanes>{});
    for (int i = 0; i < m.n; ++i) { to[2 * i] = t[i]; to[2 * i + 1] = u[i]; }
  }
}

}  // namespace ak
