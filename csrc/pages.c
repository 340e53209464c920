/* Large outputs in large pages. */
#include <stdint.h>
#include <sys/mman.h>

#include "launcher.h"

/* The C library maps blocks from here on anew for each call, whatever it has learned from those before. */
#define FRESH ((uint64_t)32 << 20)
#define HUGE ((uintptr_t)2 << 20)

static int wanted = 1;

void in_huge_pages(void* data, uint64_t bytes) {
#ifdef MADV_HUGEPAGE
  if (!wanted || bytes < FRESH) return;
  uintptr_t start = ((uintptr_t)data + HUGE - 1) / HUGE * HUGE, end = ((uintptr_t)data + bytes) / HUGE * HUGE;
  if (start < end) (void)madvise((void*)start, end - start, MADV_HUGEPAGE); /* advice: nothing is lost where it is not taken */
#endif
}

PyObject* pages_huge(PyObject* module, PyObject* flag) {
  int on = PyObject_IsTrue(flag);
  if (on < 0) return NULL;
  int before = wanted;
  wanted = on;
  return PyBool_FromLong(before);
}
