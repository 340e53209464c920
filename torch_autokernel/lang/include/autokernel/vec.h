// Vectors of N lanes over the compiler's own vector types; N may be wider than a register (then it is a pair of halves).
// Loads and stores touch exactly the bytes of the lanes they are asked for. GCC >= 9 or Clang, any target.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#define AK_INLINE inline __attribute__((always_inline))
#define AK_BODY __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define AK_AVX512 1
#define AK_BYTES 64
#elif defined(__AVX2__)
#define AK_AVX2 1
#define AK_BYTES 32
#else
#define AK_BYTES 16
#endif

namespace ak {

template <class T, int N>
struct raw_of {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
  typedef T loose __attribute__((vector_size(N * sizeof(T)), aligned(1), may_alias));
};
template <class T, int N> using raw = typename raw_of<T, N>::type;
template <class T, int N> using raw_loose = typename raw_of<T, N>::loose;

template <class T, int N> constexpr bool is_wide = (N * sizeof(T) > AK_BYTES);
template <class T, int N, bool Wide = is_wide<T, N>> struct vec;
template <int N> struct mask;

// Which lanes of a step exist: all of them, or the first n.
template <int N> struct all { static constexpr int lanes = N; };
template <int N> struct first { static constexpr int lanes = N; int64_t n; };

// ---- halves; by shuffles, since through memory a load would have to wait for two stores ----
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define AK_SHUFFLES 1
template <int From, class V, int... I> AK_INLINE auto lanes_from(const V& v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, From + I...);
}
template <class V, int... I> AK_INLINE auto side_by_side(const V& a, const V& b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, I...);
}
#endif
#endif
template <class T, int N> AK_INLINE vec<T, N / 2> low(const vec<T, N>& a) {
  if constexpr (is_wide<T, N>) { return a.lo; }
#if defined(AK_SHUFFLES)
  else if constexpr (N >= 4) { return vec<T, N / 2>(lanes_from<0>(a.r, std::make_integer_sequence<int, N / 2>{})); }
#endif
  else { vec<T, N / 2> h; std::memcpy(&h, &a, sizeof h); return h; }
}
template <class T, int N> AK_INLINE vec<T, N / 2> high(const vec<T, N>& a) {
  if constexpr (is_wide<T, N>) { return a.hi; }
#if defined(AK_SHUFFLES)
  else if constexpr (N >= 4) { return vec<T, N / 2>(lanes_from<N / 2>(a.r, std::make_integer_sequence<int, N / 2>{})); }
#endif
  else { vec<T, N / 2> h; std::memcpy(&h, reinterpret_cast<const char*>(&a) + sizeof h, sizeof h); return h; }
}
template <class T, int N> AK_INLINE vec<T, 2 * N> join(const vec<T, N>& a, const vec<T, N>& b) {
  vec<T, 2 * N> r;
  if constexpr (is_wide<T, 2 * N>) { r.lo = a; r.hi = b; }
#if defined(AK_SHUFFLES)
  else if constexpr (N >= 2) { r.r = side_by_side(a.r, b.r, std::make_integer_sequence<int, 2 * N>{}); }
#endif
  else { std::memcpy(&r, &a, sizeof a); std::memcpy(reinterpret_cast<char*>(&r) + sizeof a, &b, sizeof b); }
  return r;
}

// ---- the vector ----
template <class T, int N> struct vec<T, N, false> {
  using type = T;
  static constexpr int lanes = N;
  raw<T, N> r;
  vec() = default;
  AK_INLINE vec(T s) : r(s - raw<T, N>{}) {}
  AK_INLINE explicit vec(raw<T, N> x) : r(x) {}
  AK_INLINE T operator[](int i) const { return r[i]; }
};
template <class T, int N> struct vec<T, N, true> {
  using type = T;
  static constexpr int lanes = N;
  vec<T, N / 2> lo, hi;
  vec() = default;
  AK_INLINE vec(T s) : lo(s), hi(s) {}
  AK_INLINE vec(const vec<T, N / 2>& a, const vec<T, N / 2>& b) : lo(a), hi(b) {}
  AK_INLINE T operator[](int i) const { return i < N / 2 ? lo[i] : hi[i - N / 2]; }
};

template <int N> struct mask {
  static constexpr int lanes = N;
  vec<int32_t, N> m;  // -1 or 0
  mask() = default;
  AK_INLINE mask(bool b) : m(b ? -1 : 0) {}
  AK_INLINE explicit mask(const vec<int32_t, N>& x) : m(x) {}
};

// The type a value of another kind is widened to next to a vec: keeps `v * 2.0f` deducible.
template <class T> struct same { using type = T; };
template <class T> using same_t = typename same<T>::type;

#define AK_OP(op)                                                                                                   \
  template <class T, int N> AK_INLINE vec<T, N> operator op(const vec<T, N>& a, const vec<T, N>& b) {              \
    if constexpr (is_wide<T, N>) { return {a.lo op b.lo, a.hi op b.hi}; }                                          \
    else { return vec<T, N>(a.r op b.r); }                                                                         \
  }                                                                                                                 \
  template <class T, int N> AK_INLINE vec<T, N> operator op(const vec<T, N>& a, same_t<T> b) { return a op vec<T, N>(b); } \
  template <class T, int N> AK_INLINE vec<T, N> operator op(same_t<T> a, const vec<T, N>& b) { return vec<T, N>(a) op b; }
AK_OP(+) AK_OP(-) AK_OP(*) AK_OP(/) AK_OP(&) AK_OP(|) AK_OP(^) AK_OP(<<) AK_OP(>>)
#undef AK_OP
template <class T, int N> AK_INLINE vec<T, N> operator-(const vec<T, N>& a) {
  if constexpr (is_wide<T, N>) { return {-a.lo, -a.hi}; } else { return vec<T, N>(-a.r); }
}
template <class T, int N> AK_INLINE vec<T, N> operator~(const vec<T, N>& a) {
  if constexpr (is_wide<T, N>) { return {~a.lo, ~a.hi}; } else { return vec<T, N>(~a.r); }
}

// The vector, in registers: its users do not each read it from memory again.
template <class T, int N> AK_INLINE vec<T, N> in_registers(vec<T, N> a) {
  if constexpr (is_wide<T, N>) { return {in_registers(a.lo), in_registers(a.hi)}; }
#if defined(__x86_64__)
  else if constexpr (sizeof(a.r) == AK_BYTES) { asm("" : "+v"(a.r)); return a; }
#endif
  else { return a; }
}

// ---- conversion and bits ----
template <class To, class T, int N> AK_INLINE vec<To, N> to(const vec<T, N>& a) {
  if constexpr (std::is_same_v<To, T>) { return a; }
  else if constexpr (is_wide<T, N> || is_wide<To, N>) { return join(to<To>(low(a)), to<To>(high(a))); }
  else {
#if defined(AK_AVX512)  // one instruction where the compiler takes three
    constexpr bool integral = std::is_integral_v<T> && std::is_integral_v<To>, whole = N == 16 && integral;
    vec<To, N> r;
    if constexpr (whole && std::is_unsigned_v<T> && sizeof(T) == 2 && sizeof(To) == 4) { asm("vpmovzxwd %1, %0" : "=v"(r.r) : "vm"(a.r)); return r; }
    if constexpr ((N == 8 || N == 16) && integral && sizeof(T) == 1 && sizeof(To) == 4) {
      if constexpr (std::is_signed_v<T>) { asm("vpmovsxbd %1, %0" : "=v"(r.r) : "vm"(a.r)); }
      else { asm("vpmovzxbd %1, %0" : "=v"(r.r) : "vm"(a.r)); }
      return r;
    }
    if constexpr (whole && sizeof(T) == 4 && sizeof(To) == 2) { asm("vpmovdw %1, %0" : "=v"(r.r) : "v"(a.r)); return r; }
    if constexpr (whole && sizeof(T) == 4 && sizeof(To) == 1) { asm("vpmovdb %1, %0" : "=v"(r.r) : "v"(a.r)); return r; }
#elif defined(AK_AVX2)
    if constexpr (N == 8 && std::is_same_v<T, uint16_t> && std::is_integral_v<To> && sizeof(To) == 4) {
      vec<To, N> r;
      asm("vpmovzxwd %1, %0" : "=x"(r.r) : "xm"(a.r));
      return r;
    }
    if constexpr (N == 8 && sizeof(T) == 1 && std::is_integral_v<To> && sizeof(To) == 4) {
      vec<To, N> r;
      if constexpr (std::is_signed_v<T>) { asm("vpmovsxbd %1, %0" : "=x"(r.r) : "xm"(a.r)); }
      else { asm("vpmovzxbd %1, %0" : "=x"(r.r) : "xm"(a.r)); }
      return r;
    }
#if defined(AK_SHUFFLES)
    if constexpr (N == 8 && std::is_integral_v<T> && sizeof(T) == 4 && std::is_integral_v<To> && sizeof(To) == 1) {
      const auto every = (raw<To, 32>)a.r;
      return vec<To, N>(__builtin_shufflevector(every, every, 0, 4, 8, 12, 16, 20, 24, 28));
    }
#endif
#endif
    return vec<To, N>(__builtin_convertvector(a.r, raw<To, N>));
  }
}
template <class To, int N> AK_INLINE vec<To, N> to(const mask<N>& a) { return to<To>(-a.m); }
template <class To, class T, int N> AK_INLINE vec<To, N> bits(const vec<T, N>& a) {
  static_assert(sizeof(To) == sizeof(T), "same width only");
  if constexpr (is_wide<T, N>) { return {bits<To>(a.lo), bits<To>(a.hi)}; }
  else { return vec<To, N>((raw<To, N>)a.r); }
}

// ---- comparison and choice ----
template <class T> using mask_int = std::conditional_t<sizeof(T) == 8, int64_t,
    std::conditional_t<sizeof(T) == 4, int32_t, std::conditional_t<sizeof(T) == 2, int16_t, int8_t>>>;
#define AK_CMP(op)                                                                                                  \
  template <class T, int N> AK_INLINE mask<N> operator op(const vec<T, N>& a, const vec<T, N>& b) {                \
    if constexpr (is_wide<T, N>) { return mask<N>(join((a.lo op b.lo).m, (a.hi op b.hi).m)); }                     \
    else { return mask<N>(to<int32_t>(vec<mask_int<T>, N>(raw<mask_int<T>, N>(a.r op b.r)))); }                    \
  }                                                                                                                 \
  template <class T, int N> AK_INLINE mask<N> operator op(const vec<T, N>& a, same_t<T> b) { return a op vec<T, N>(b); } \
  template <class T, int N> AK_INLINE mask<N> operator op(same_t<T> a, const vec<T, N>& b) { return vec<T, N>(a) op b; }
AK_CMP(==) AK_CMP(!=) AK_CMP(<) AK_CMP(<=) AK_CMP(>) AK_CMP(>=)
#undef AK_CMP
template <int N> AK_INLINE mask<N> operator&(const mask<N>& a, const mask<N>& b) { return mask<N>(a.m & b.m); }
template <int N> AK_INLINE mask<N> operator|(const mask<N>& a, const mask<N>& b) { return mask<N>(a.m | b.m); }
template <int N> AK_INLINE mask<N> operator^(const mask<N>& a, const mask<N>& b) { return mask<N>(a.m ^ b.m); }
template <int N> AK_INLINE mask<N> operator~(const mask<N>& a) { return mask<N>(~a.m); }
template <int N> AK_INLINE mask<N> operator&(const mask<N>& a, bool b) { return a & mask<N>(b); }
template <int N> AK_INLINE mask<N> operator&(bool a, const mask<N>& b) { return mask<N>(a) & b; }
template <int N> AK_INLINE mask<N> operator|(const mask<N>& a, bool b) { return a | mask<N>(b); }
template <int N> AK_INLINE mask<N> operator|(bool a, const mask<N>& b) { return mask<N>(a) | b; }
template <int N> AK_INLINE mask<N> operator^(const mask<N>& a, bool b) { return a ^ mask<N>(b); }
template <int N> AK_INLINE mask<N> operator^(bool a, const mask<N>& b) { return mask<N>(a) ^ b; }

template <class T, int N> AK_INLINE vec<T, N> select(const mask<N>& c, const vec<T, N>& a, const vec<T, N>& b) {
  if constexpr (is_wide<T, N>) {
    return {select(mask<N / 2>(low(c.m)), a.lo, b.lo), select(mask<N / 2>(high(c.m)), a.hi, b.hi)};
  } else { return vec<T, N>(to<mask_int<T>>(c.m).r ? a.r : b.r); }
}
template <class T, int N> AK_INLINE vec<T, N> select(const mask<N>& c, const vec<T, N>& a, same_t<T> b) { return select(c, a, vec<T, N>(b)); }
template <class T, int N> AK_INLINE vec<T, N> select(const mask<N>& c, same_t<T> a, const vec<T, N>& b) { return select(c, vec<T, N>(a), b); }
template <class T, int N> AK_INLINE vec<T, N> select(bool c, const vec<T, N>& a, const vec<T, N>& b) { return c ? a : b; }
template <class T, int N> AK_INLINE vec<T, N> select(bool c, const vec<T, N>& a, same_t<T> b) { return c ? a : vec<T, N>(b); }
template <class T, int N> AK_INLINE vec<T, N> select(bool c, same_t<T> a, const vec<T, N>& b) { return c ? vec<T, N>(a) : b; }
template <int N> AK_INLINE mask<N> select(const mask<N>& c, const mask<N>& a, const mask<N>& b) { return (c & a) | (~c & b); }
template <class T> AK_INLINE std::enable_if_t<std::is_arithmetic_v<T>, T> select(bool c, T a, same_t<T> b) { return c ? a : b; }
// The scalar choices under a vector condition, for a value of type T.
template <class T, int N> AK_INLINE vec<T, N> choose(const mask<N>& c, T a, T b) { return select(c, vec<T, N>(a), vec<T, N>(b)); }

template <int N> AK_INLINE bool any(const mask<N>& c) {
#if defined(AK_AVX2) || defined(AK_AVX512)
  if constexpr (N == 8) { return __builtin_ia32_movmskps256((raw<float, 8>)c.m.r) != 0; } else
#endif
  if constexpr (N > 4) { return any(mask<N / 2>(low(c.m) | high(c.m))); }
  else { return (c.m.r[0] | c.m.r[1] | c.m.r[2] | c.m.r[3]) != 0; }
}

// ---- lanes ----
template <class T, int N, int... I> AK_INLINE raw<T, N> count_up(std::integer_sequence<int, I...>) { return raw<T, N>{T(I)...}; }
template <class T, int N> AK_INLINE vec<T, N> lanes() {
  if constexpr (is_wide<T, N>) { return {lanes<T, N / 2>(), lanes<T, N / 2>() + T(N / 2)}; }
  else { return vec<T, N>(count_up<T, N>(std::make_integer_sequence<int, N>{})); }
}
template <class T, int N> AK_INLINE vec<T, N> ramp(T start, T step) { return lanes<T, N>() * step + start; }

template <int N> AK_INLINE mask<N> exists(all<N>) { return mask<N>(true); }
template <int N> AK_INLINE mask<N> exists(first<N> m) { return lanes<int32_t, N>() < int32_t(m.n); }
// v where the lane exists, `other` where it does not.
template <class V, int N> AK_INLINE V keep(all<N>, const V& v, typename V::type) { return v; }
template <class V, int N> AK_INLINE V keep(first<N> m, const V& v, typename V::type other) { return select(exists(m), v, V(other)); }
template <int N> AK_INLINE mask<N> keep(all<N>, const mask<N>& v, bool) { return v; }
template <int N> AK_INLINE mask<N> keep(first<N> m, const mask<N>& v, bool other) { return other ? v | ~exists(m) : v & exists(m); }

}  // namespace ak
