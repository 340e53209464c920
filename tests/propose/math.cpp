#include <autokernel/products.h>
using namespace ak;
#define UNARY(f)                                                                        \
  extern "C" void m_##f(const float* x, float* y, int64_t n) {                          \
    each<LANES>(0, n, [&](int64_t j, auto m) AK_BODY { put<f32>(y + j, f(get<f32>(x + j, m)), m); }); \
  }                                                                                     \
  extern "C" void s_##f(const float* x, float* y, int64_t n) {                          \
    for (int64_t j = 0; j < n; ++j) y[j] = f(x[j]);                                     \
  }
UNARY(exp) UNARY(expm1) UNARY(log) UNARY(log1p) UNARY(tanh) UNARY(erf) UNARY(sigmoid) UNARY(sin) UNARY(cos) UNARY(sqrt) UNARY(rsqrt)
UNARY(floor) UNARY(ceil) UNARY(trunc) UNARY(round) UNARY(sign) UNARY(round_bf16) UNARY(round_f16) UNARY(abs)
#define NARROW(kind)                                                                    \
  extern "C" void m_wide_##kind(const kind::Mem* x, int32_t* y, int64_t n) {            \
    each<LANES>(0, n, [&](int64_t j, auto m) AK_BODY { put<i32>(y + j, get<kind>(x + j, m), m); }); \
  }                                                                                     \
  extern "C" void m_narrow_##kind(const int32_t* x, kind::Mem* y, int64_t n) {          \
    each<LANES>(0, n, [&](int64_t j, auto m) AK_BODY { put<kind>(y + j, get<i32>(x + j, m), m); }); \
  }
NARROW(i8) NARROW(u8) NARROW(i16)
extern "C" void m_exp_down(const float* x, float* y, int64_t n) {
  each<LANES>(0, n, [&](int64_t j, auto m) AK_BODY { const auto v = get<f32>(x + j, m); put<f32>(y + j, exp_down(select(v > 0.0f, 0.0f, v)), m); });
}
extern "C" void m_quotient(const float* x, float* y, float d, int64_t n) {
  each<LANES>(0, n, [&](int64_t j, auto m) AK_BODY { put<f32>(y + j, get<f32>(x + j, m) / divisor(d), m); });
}
extern "C" float m_max(const float* x, int64_t n) {
  vec<float, LANES> a(-INFINITY);
  each<LANES>(0, n, [&](int64_t j, auto m) AK_BODY { a = maximum(keep(m, get<f32>(x + j, m), -INFINITY), a); });
  return hmax(a);
}
#define EXTREMES(f, kind)                                                               \
  extern "C" void m_##f##_##kind(const kind::Mem* a, const kind::Mem* b, kind::Mem* y, int64_t n) { \
    each<LANES>(0, n, [&](int64_t j, auto m) AK_BODY { put<kind>(y + j, f(get<kind>(a + j, m), get<kind>(b + j, m)), m); }); \
  }
EXTREMES(maximum, f32) EXTREMES(minimum, f32) EXTREMES(maximum, f64) EXTREMES(minimum, f64) EXTREMES(maximum, i32) EXTREMES(minimum, i64)
extern "C" double m_sum(const double* x, int64_t n) {
  vec<double, LANES> a(0.0);
  each<LANES>(0, n, [&](int64_t j, auto m) AK_BODY { a = a + get<f64>(x + j, m); });
  return hsum(a);
}
