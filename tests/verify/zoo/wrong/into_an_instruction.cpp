// Jumps into the middle of an instruction.
// region: gelu()
// check: instructions
#include <kernel.h>

extern "C" void kernel(const float* x0, float* y0, int64_t s0) {
  for (int64_t i = 0; i < s0; ++i) y0[i] = 0.5f * x0[i] * (1 + erff(x0[i] * 0.70710678f));
  asm volatile("jmp 1f + 1\n1: .byte 0xb8, 0x90, 0x90, 0x90, 0x90" ::: "eax");
}
