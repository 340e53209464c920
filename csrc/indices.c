/* Are all elements of an integer tensor indices below a limit? */
#include <string.h>

#include "launcher.h"

#define AT_ONCE 4096 /* elements for which releasing the GIL would cost more */

/* What an element may be: within [0, last], or `spared`, unless `strict` has all bits set. */
typedef struct {
  uint64_t last, spared, strict;
} Allowed;

/* The result's sign bit is set where some element of a row is not allowed. Free of branches, so that it becomes vectors. */
#define ROW(name, T)                                                                                  \
  static uint64_t name(const void* row, int64_t n, int64_t step, Allowed is) {                        \
    uint64_t bad = 0;                                                                                 \
    for (int64_t i = 0; i < n; i++) {                                                                 \
      const uint64_t x = (uint64_t)(int64_t)((const T*)row)[i * step], other = x ^ is.spared;         \
      bad |= (x | (is.last - x)) & (other | (0 - other) | is.strict);                                 \
    }                                                                                                 \
    return bad;                                                                                       \
  }
ROW(row_i8, int8_t)
ROW(row_i16, int16_t)
ROW(row_i32, int32_t)
ROW(row_i64, int64_t)
ROW(row_u8, uint8_t)
static uint64_t row_dense(const void* row, int64_t n, int64_t step, Allowed is) { return row_i64(row, n, 1, is); }

typedef uint64_t (*Row)(const void*, int64_t, int64_t, Allowed);

static Row row_of(const DlTensor* t) {
  if (t->dtype.lanes != 1 || t->device.type != DL_DEVICE_CPU) return NULL;
  if (t->dtype.code == 1 && t->dtype.bits == 8) return row_u8;
  if (t->dtype.code != 0) return NULL;
  switch (t->dtype.bits) {
    case 8: return row_i8;
    case 16: return row_i16;
    case 32: return row_i32;
    case 64: return t->ndim && t->strides[t->ndim - 1] == 1 ? row_dense : row_i64;
  }
  return NULL;
}

static uint64_t rows(const DlTensor* t, int d, const char* at, Row row, Allowed is) {
  const int64_t size = t->ndim ? t->shape[d] : 1, step = t->ndim ? t->strides[d] : 1;
  if (d + 1 >= t->ndim) return row(at, size, step, is);
  uint64_t bad = 0;
  for (int64_t i = 0; i < size; i++) bad |= rows(t, d + 1, at + i * step * (t->dtype.bits / 8), row, is);
  return bad;
}

PyObject* indices_inside(PyObject* module, PyObject* args) {
  PyObject *capsule, *tensor, *spared;
  long long limit, value = 0;
  DlTensor t;
  memset(&t, 0, sizeof t);
  if (!PyArg_ParseTuple(args, "OOLO", &capsule, &tensor, &limit, &spared)) return NULL;
  if (spared != Py_None && (value = PyLong_AsLongLong(spared)) == -1 && PyErr_Occurred()) return NULL;
  const DlExchange* exchange = exchange_of(capsule);
  if (!exchange) return NULL;
  if (exchange->tensor_from_object(tensor, &t)) {
    if (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError)) return NULL;
    PyErr_Clear();
    return PyBool_FromLong(0);
  }
  int64_t count = 1;
  for (int d = 0; d < t.ndim; d++) count *= t.shape[d];
  const Row row = row_of(&t);
  if (!row || limit < 0 || (count && !t.data)) return PyBool_FromLong(0);
  const Allowed is = {(uint64_t)limit - 1, (uint64_t)value, spared == Py_None ? ~(uint64_t)0 : 0};
  const char* at = (const char*)t.data + t.byte_offset;
  if (!count) return PyBool_FromLong(1);
  PyThreadState* held = count > AT_ONCE ? PyEval_SaveThread() : NULL;
  const uint64_t bad = rows(&t, 0, at, row, is);
  if (held) PyEval_RestoreThread(held);
  return PyBool_FromLong(!(bad >> 63));
}
