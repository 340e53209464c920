// Does not compile.
// region: gelu()
// check: compiles
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  y0[0] = undeclared;
}
