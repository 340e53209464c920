/* The plan: Python data into C structures. The data come from lang/launch.py, but nothing here trusts them. */
#include <stdlib.h>
#include <string.h>

#include "launcher.h"

static int bad(const char* what) {
  if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "launch plan: %s", what);
  return -1;
}

static void* zeroed(Py_ssize_t count, size_t size) {
  void* out = calloc(count > 0 ? (size_t)count : 1, size);
  if (!out) PyErr_NoMemory();
  return out;
}

static char* copied(PyObject* text) {
  PyObject* bytes = PyUnicode_AsUTF8String(text);
  const char* said = bytes ? PyBytes_AsString(bytes) : NULL;
  char* out = said ? strdup(said) : NULL;
  if (said && !out) PyErr_NoMemory();
  Py_XDECREF(bytes);
  return out;
}

/* Length of a tuple of at most `most` items, or -1. */
static Py_ssize_t length(PyObject* from, Py_ssize_t most, const char* what) {
  if (!PyTuple_Check(from)) return bad(what);
  Py_ssize_t n = PyTuple_Size(from);
  return n <= most ? n : bad(what);
}

static int plan_term(PyObject* from, Term* out, int n_symbols) {
  PyObject* symbols;
  long long coefficient;
  if (!PyTuple_Check(from) || !PyArg_ParseTuple(from, "LO!", &coefficient, &PyTuple_Type, &symbols))
    return bad("a term is (coefficient, (symbol indices))");
  Py_ssize_t n = length(symbols, 64, "a term has at most 64 symbols");
  if (n < 0 || !(out->symbols = zeroed(n, sizeof *out->symbols))) return -1;
  out->coefficient = coefficient;
  out->count = (int)n;
  for (Py_ssize_t i = 0; i < n; i++) {
    long symbol = PyLong_AsLong(PyTuple_GetItem(symbols, i));
    if (symbol < 0 || symbol >= n_symbols) return bad("a symbol index is out of range");
    out->symbols[i] = (uint16_t)symbol;
  }
  return 0;
}

/* (text, ((coefficient, (symbol index, ...)), ...)) */
int plan_dim(PyObject* from, Dim* out, int n_symbols) {
  PyObject *text, *terms;
  if (!PyTuple_Check(from) || !PyArg_ParseTuple(from, "UO!", &text, &PyTuple_Type, &terms))
    return bad("a size is (text, terms)");
  Py_ssize_t n = length(terms, 64, "a size has at most 64 terms");
  if (n < 0 || !(out->text = copied(text)) || !(out->terms = zeroed(n, sizeof *out->terms))) return -1;
  for (Py_ssize_t i = 0; i < n; i++) {
    out->count = (int)i + 1;
    if (plan_term(PyTuple_GetItem(terms, i), &out->terms[i], n_symbols)) return -1;
  }
  const Term* only = n == 1 ? &out->terms[0] : NULL;
  out->kind = POLYNOMIAL;
  if (n == 0 || (only && only->count == 0)) out->kind = CONSTANT, out->value = n ? only->coefficient : 0;
  else if (only && only->count == 1 && only->coefficient == 1) out->kind = SYMBOL, out->value = only->symbols[0];
  return 0;
}

static int plan_dims(PyObject* from, Dim** out, int ndim, int n_symbols) {
  if (length(from, MAX_DIMS, "a tensor has at most 64 dimensions") != ndim) return bad("shape and stride are tuples of one length");
  if (!(*out = zeroed(ndim, sizeof **out))) return -1;
  for (int d = 0; d < ndim; d++)
    if (plan_dim(PyTuple_GetItem(from, d), &(*out)[d], n_symbols)) return -1;
  return 0;
}

/* ((name, low, high), ...) */
int plan_symbols(PyObject* from, Launcher* self) {
  Py_ssize_t n = length(from, MAX_SYMBOLS, "symbols is a tuple of at most 128");
  if (n < 0 || !(self->symbols = zeroed(n, sizeof *self->symbols))) return -1;
  self->n_symbols = (int)n;
  for (Py_ssize_t i = 0; i < n; i++) {
    PyObject *name, *row = PyTuple_GetItem(from, i);
    long long low, high;
    if (!PyTuple_Check(row) || !PyArg_ParseTuple(row, "ULL", &name, &low, &high)) return bad("a symbol is (name, low, high)");
    if (low < 0) return bad("a symbol's least value is negative");
    if (!(self->symbols[i].name = copied(name))) return -1;
    self->symbols[i].low = low;
    self->symbols[i].high = high;
  }
  return 0;
}

/* ((code, bits, alignment, shape, stride), ...) */
int plan_inputs(PyObject* from, Launcher* self) {
  Py_ssize_t n = length(from, MAX_TENSORS, "inputs is a tuple of at most 128");
  if (n < 0 || !(self->inputs = zeroed(n, sizeof *self->inputs))) return -1;
  self->n_inputs = (int)n;
  for (Py_ssize_t i = 0; i < n; i++) {
    PyObject *shape, *stride, *row = PyTuple_GetItem(from, i);
    Input* in = &self->inputs[i];
    int code, bits;
    long long alignment;
    if (!PyTuple_Check(row) ||
        !PyArg_ParseTuple(row, "iiLO!O!", &code, &bits, &alignment, &PyTuple_Type, &shape, &PyTuple_Type, &stride))
      return bad("an input is (code, bits, alignment, shape, stride)");
    if (alignment < 1) return bad("an alignment is less than 1");
    in->code = (uint8_t)code, in->bits = (uint8_t)bits, in->alignment = alignment;
    in->ndim = (int)PyTuple_Size(shape);
    if (plan_dims(shape, &in->shape, in->ndim, self->n_symbols)) return -1;
    if (plan_dims(stride, &in->stride, in->ndim, self->n_symbols)) return -1;
  }
  return 0;
}

/* ((dtype, shape, stride), ...) */
int plan_outputs(PyObject* from, Launcher* self) {
  Py_ssize_t n = length(from, MAX_TENSORS - self->n_inputs, "outputs is a tuple; at most 128 tensors in all");
  if (n < 0 || !(self->outputs = zeroed(n, sizeof *self->outputs))) return -1;
  self->n_outputs = (int)n;
  for (Py_ssize_t i = 0; i < n; i++) {
    PyObject *dtype, *shape, *stride, *row = PyTuple_GetItem(from, i);
    Output* out = &self->outputs[i];
    if (!PyTuple_Check(row) || !PyArg_ParseTuple(row, "OO!O!", &dtype, &PyTuple_Type, &shape, &PyTuple_Type, &stride))
      return bad("an output is (dtype, shape, stride)");
    Py_INCREF(out->dtype = dtype);
    out->ndim = (int)PyTuple_Size(shape);
    if (plan_dims(shape, &out->shape, out->ndim, self->n_symbols)) return -1;
    if (plan_dims(stride, &out->stride, out->ndim, self->n_symbols)) return -1;
    if (!(out->last = zeroed(2 * (Py_ssize_t)out->ndim, sizeof *out->last))) return -1;
  }
  return 0;
}

/* The exchange of our major version, looked for among the older ones too; NULL with a Python error set. */
const DlExchange* exchange_of(PyObject* capsule) {
  const DlExchangeHeader* header = PyCapsule_GetPointer(capsule, DL_EXCHANGE_CAPSULE);
  if (!header) return NULL;
  while (header->major > DL_MAJOR && header->older) header = header->older;
  if (header->major != DL_MAJOR || header->minor < DL_MINOR_LEAST)
    return PyErr_Format(PyExc_RuntimeError, "torch offers DLPack %u.%u; 1.2 or a later 1.x is needed", header->major, header->minor), NULL;
  const DlExchange* exchange = (const DlExchange*)header;
  if (!exchange->tensor_from_object)
    PyErr_SetString(PyExc_RuntimeError, "torch's DLPack exchange cannot lend tensors (dltensor_from_py_object_no_sync is null)");
  return exchange->tensor_from_object ? exchange : NULL;
}

int plan_exchange(PyObject* capsule, Launcher* self) {
  if (!(self->exchange = exchange_of(capsule))) return -1;
  Py_INCREF(self->exchange_capsule = capsule);
  return 0;
}

void plan_free_dim(Dim* dim) {
  for (int i = 0; dim->terms && i < dim->count; i++) free(dim->terms[i].symbols);
  free(dim->terms);
  free(dim->text);
}

static void free_dims(Dim* dims, int ndim) {
  for (int d = 0; dims && d < ndim; d++) plan_free_dim(&dims[d]);
  free(dims);
}

void plan_free(Launcher* self) {
  for (int i = 0; self->inputs && i < self->n_inputs; i++) {
    free_dims(self->inputs[i].shape, self->inputs[i].ndim);
    free_dims(self->inputs[i].stride, self->inputs[i].ndim);
  }
  for (int i = 0; self->outputs && i < self->n_outputs; i++) {
    free_dims(self->outputs[i].shape, self->outputs[i].ndim);
    free_dims(self->outputs[i].stride, self->outputs[i].ndim);
    free(self->outputs[i].last);
  }
  for (int i = 0; self->symbols && i < self->n_symbols; i++) free(self->symbols[i].name);
  free(self->inputs), free(self->outputs), free(self->symbols);
  plan_free_dim(&self->workspace);
}
