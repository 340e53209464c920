/* The guard: do these tensors fit the plan, and what are the sizes then? */
#include <stdio.h>
#include <string.h>

#include "launcher.h"

#define MISS(...) (snprintf(why, MAX_WHY, __VA_ARGS__), 1)

int dim_value(const Dim* dim, const int64_t* sizes, int64_t* out) {
  if (dim->kind == CONSTANT) return *out = dim->value, 0;
  if (dim->kind == SYMBOL) return *out = sizes[dim->value], 0;
  int64_t total = 0;
  for (int i = 0; i < dim->count; i++) {
    const Term* term = &dim->terms[i];
    int64_t product = term->coefficient;
    for (int j = 0; j < term->count; j++)
      if (__builtin_mul_overflow(product, sizes[term->symbols[j]], &product)) return -1;
    if (__builtin_add_overflow(total, product, &total)) return -1;
  }
  return *out = total, 0;
}

static const char* dtype_name(int code, int bits) {
  static const struct {
    int code, bits;
    const char* name;
  } names[] = {{0, 8, "int8"},     {0, 16, "int16"},   {0, 32, "int32"},   {0, 64, "int64"},    {1, 8, "uint8"},
               {2, 16, "float16"}, {2, 32, "float32"}, {2, 64, "float64"}, {4, 16, "bfloat16"}, {DL_BOOL, 8, "bool"}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (names[i].code == code && names[i].bits == bits) return names[i].name;
  return "another dtype";
}

/* Turn a pending Python error of the exchange into a reason; memory errors and interrupts stay errors. */
static int unreadable(int index, char* why) {
  if (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError)) return -1;
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyObject* text = value ? PyObject_Str(value) : NULL;
  PyObject* bytes = text ? PyUnicode_AsEncodedString(text, "utf-8", "replace") : NULL;
  const char* said = bytes ? PyBytes_AsString(bytes) : NULL;
  size_t line = said ? strcspn(said, "\n") : 0;
  snprintf(why, MAX_WHY, "input %d cannot be read: %.*s", index, (int)(line > 160 ? 160 : line), said ? said : "");
  Py_XDECREF(bytes), Py_XDECREF(text), Py_XDECREF(type), Py_XDECREF(value), Py_XDECREF(trace);
  PyErr_Clear();
  return 1;
}

/* Is the argument a plain tensor without pending negation? Everything here may run foreign code or release the GIL. */
static int match_type(Launcher* self, int index, PyObject* arg, char* why) {
  PyObject* type = (PyObject*)Py_TYPE(arg);
  Py_ssize_t known = PyTuple_Size(self->types), i = 0;
  while (i < known && PyTuple_GetItem(self->types, i) != type) i++;
  if (i == known) {
    PyObject* name = PyObject_GetAttrString(type, "__name__");
    PyObject* bytes = name ? PyUnicode_AsUTF8String(name) : NULL;
    const char* said = bytes ? PyBytes_AsString(bytes) : NULL;
    snprintf(why, MAX_WHY, "input %d is of type %.80s where a plain torch.Tensor was expected", index, said ? said : "?");
    Py_XDECREF(name), Py_XDECREF(bytes);
    PyErr_Clear();
    return 1;
  }
  if (self->inputs[index].code == DL_BOOL) return 0;
  PyObject* negative = PyObject_CallFunctionObjArgs(self->negative, arg, NULL);
  if (!negative) return unreadable(index, why);
  int is_negative = negative != Py_False;
  Py_DECREF(negative);
  return is_negative ? MISS("input %d is a lazily negated view where a plain tensor was expected", index) : 0;
}

/* Read one argument into `t`, and check what does not depend on sizes. */
static int match_kind(Launcher* self, int index, PyObject* arg, DlTensor* t, char* why) {
  const Input* in = &self->inputs[index];
  memset(t, 0, sizeof *t);
  if (self->exchange->tensor_from_object(arg, t)) return unreadable(index, why);
  if (t->device.type != DL_DEVICE_CPU)
    return MISS("input %d is on another device (DLPack type %d) where the CPU was expected", index, (int)t->device.type);
  if (t->dtype.code != in->code || t->dtype.bits != in->bits || t->dtype.lanes != 1)
    return MISS("input %d is of dtype %s where %s was expected", index, dtype_name(t->dtype.code, t->dtype.bits),
                dtype_name(in->code, in->bits));
  if (t->ndim != in->ndim) return MISS("input %d has %d dimensions where %d were expected", index, (int)t->ndim, in->ndim);
  if (!t->data)
    for (int d = 0, empty = 0; d <= t->ndim && !empty; d++) {
      if (d == t->ndim) return MISS("input %d has no memory", index);
      empty = t->shape[d] == 0;
    }
  if (((uintptr_t)t->data + t->byte_offset) % (uint64_t)in->alignment)
    return MISS("input %d is at address %p where a multiple of %lld was expected", index, t->data, (long long)in->alignment);
  return 0;
}

/* Bind the symbols that stand alone. Shapes come first; a stride counts only where its dimension is longer than 1. */
static void bind(const Launcher* self, const DlTensor* tensors, int64_t* sizes) {
  for (int s = 0; s < self->n_symbols; s++) sizes[s] = -1;
  for (int k = 0; k < 2; k++)
    for (int i = 0; i < self->n_inputs; i++) {
      const Dim* dims = k ? self->inputs[i].stride : self->inputs[i].shape;
      const int64_t* have = k ? tensors[i].strides : tensors[i].shape;
      for (int d = 0; d < self->inputs[i].ndim; d++) {
        if (dims[d].kind != SYMBOL || sizes[dims[d].value] != -1 || (k && tensors[i].shape[d] == 1)) continue;
        sizes[dims[d].value] = have[d];
      }
    }
  for (int s = 0; s < self->n_symbols; s++)
    if (sizes[s] == -1) sizes[s] = self->symbols[s].low; /* a stride that no element is reached by */
}

static int match_dims(const Launcher* self, int index, const DlTensor* t, const int64_t* sizes, char* why) {
  const Input* in = &self->inputs[index];
  int64_t want = 0;
  for (int d = 0; d < in->ndim; d++) {
    if (dim_value(&in->shape[d], sizes, &want))
      return MISS("input %d, dimension %d: %s overflows", index, d, in->shape[d].text);
    if (t->shape[d] != want)
      return MISS("input %d has size %lld in dimension %d where %s = %lld was expected", index, (long long)t->shape[d], d,
                  in->shape[d].text, (long long)want);
  }
  for (int d = 0; d < in->ndim; d++) {
    if (t->shape[d] == 1) continue;
    if (dim_value(&in->stride[d], sizes, &want))
      return MISS("input %d, stride of dimension %d: %s overflows", index, d, in->stride[d].text);
    if (t->strides[d] != want)
      return MISS("input %d has stride %lld in dimension %d where %s = %lld was expected", index, (long long)t->strides[d],
                  d, in->stride[d].text, (long long)want);
  }
  return 0;
}

int match(Launcher* self, PyObject* args, void** buffers, int64_t* sizes, char* why) {
  DlTensor tensors[MAX_TENSORS];
  Py_ssize_t given = PyTuple_Size(args);
  int bad;
  if (!self->types) return PyErr_SetString(PyExc_RuntimeError, "this launcher was cleared by the garbage collector"), -1;
  if (given != self->n_inputs)
    return MISS("%lld tensors were given where %d were expected", (long long)given, self->n_inputs);
  for (int i = 0; i < self->n_inputs; i++)
    if ((bad = match_type(self, i, PyTuple_GetItem(args, i), why))) return bad;
  for (int i = 0; i < self->n_inputs; i++) {
    if ((bad = match_kind(self, i, PyTuple_GetItem(args, i), &tensors[i], why))) return bad;
    buffers[i] = (char*)tensors[i].data + tensors[i].byte_offset;
  }
  bind(self, tensors, sizes);
  for (int s = 0; s < self->n_symbols; s++) {
    const Symbol* symbol = &self->symbols[s];
    if (sizes[s] < symbol->low)
      return MISS("%s = %lld where at least %lld was expected", symbol->name, (long long)sizes[s], (long long)symbol->low);
    if (sizes[s] > symbol->high)
      return MISS("%s = %lld where at most %lld was expected", symbol->name, (long long)sizes[s], (long long)symbol->high);
  }
  for (int i = 0; i < self->n_inputs; i++)
    if ((bad = match_dims(self, i, &tensors[i], sizes, why))) return bad;
  return 0;
}
