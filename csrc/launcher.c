/* The type `Launcher`: guard, allocate, run. */
#include <stdlib.h>
#include <string.h>

#include "launcher.h"

static PyObject* size_tuple(const int64_t* values, int n) {
  PyObject* out = PyTuple_New(n);
  for (int i = 0; out && i < n; i++) {
    PyObject* item = PyLong_FromLongLong(values[i]);
    if (!item || PyTuple_SetItem(out, i, item)) Py_CLEAR(out);
  }
  return out;
}

/* A new tensor for the output. The size and stride tuples of the last call are used again where they are the same. */
static PyObject* allocate(Launcher* self, Output* out, const int64_t* sizes) {
  int64_t values[2 * MAX_DIMS];
  int n = out->ndim;
  for (int d = 0; d < n; d++)
    if (dim_value(&out->shape[d], sizes, &values[d]) || dim_value(&out->stride[d], sizes, &values[n + d])) {
      PyErr_SetString(PyExc_OverflowError, "an output size does not fit into 64 bits");
      return NULL;
    }
  if (!out->sizes || memcmp(values, out->last, 2 * (size_t)n * sizeof *values)) {
    PyObject* shape = size_tuple(values, n);
    PyObject* stride = shape ? size_tuple(values + n, n) : NULL;
    if (!stride) return Py_XDECREF(shape), NULL;
    PyObject *old_shape = out->sizes, *old_stride = out->strides;
    out->sizes = shape, out->strides = stride;
    memcpy(out->last, values, 2 * (size_t)n * sizeof *values);
    Py_XDECREF(old_shape), Py_XDECREF(old_stride);
  }
  PyObject *shape = out->sizes, *stride = out->strides; /* held: another thread may replace them during the call */
  Py_INCREF(shape), Py_INCREF(stride);
  PyObject* tensor = PyObject_CallFunctionObjArgs(self->empty, shape, stride, out->dtype, NULL);
  Py_DECREF(shape), Py_DECREF(stride);
  return tensor;
}

static int output_address(Launcher* self, PyObject* tensor, void** address) {
  DlTensor t;
  memset(&t, 0, sizeof t);
  if (PyTuple_GetItem(self->types, 0) != (PyObject*)Py_TYPE(tensor)) {
    PyErr_SetString(PyExc_TypeError, "the allocator did not return a plain torch.Tensor");
    return -1;
  }
  if (self->exchange->tensor_from_object(tensor, &t)) return -1;
  *address = (char*)t.data + t.byte_offset;
  uint64_t elements = 1;
  for (int d = 0; d < t.ndim; d++) {
    if (!t.shape[d]) return 0;
    elements += (uint64_t)(t.shape[d] - 1) * (uint64_t)t.strides[d];
  }
  in_huge_pages(*address, elements * t.dtype.bits / 8);
  return 0;
}

/* The outputs as a tuple, their addresses in `buffers`. */
static PyObject* allocate_all(Launcher* self, const int64_t* sizes, void** buffers) {
  PyObject* outputs = PyTuple_New(self->n_outputs);
  for (int i = 0; outputs && i < self->n_outputs; i++) {
    PyObject* tensor = allocate(self, &self->outputs[i], sizes);
    if (!tensor || PyTuple_SetItem(outputs, i, tensor) || output_address(self, tensor, &buffers[i])) Py_CLEAR(outputs);
  }
  return outputs;
}

static PyObject* launcher_call(PyObject* object, PyObject* args, PyObject* kwargs) {
  Launcher* self = (Launcher*)object;
  void* buffers[MAX_TENSORS];
  int64_t sizes[MAX_SYMBOLS], bytes = 0;
  char why[MAX_WHY];
  if (kwargs && PyDict_Size(kwargs)) return PyErr_SetString(PyExc_TypeError, "a launcher takes no keyword arguments"), NULL;
  int bad = match(self, args, buffers, sizes, why);
  if (bad > 0) PyErr_SetString(self->miss, why);
  if (bad) return NULL;
  if (dim_value(&self->workspace, sizes, &bytes) || bytes < 0)
    return PyErr_Format(PyExc_OverflowError, "the workspace size %s is not possible", self->workspace.text), NULL;
  PyObject* outputs = allocate_all(self, sizes, buffers + self->n_inputs);
  if (!outputs) return NULL;
  void* memory = bytes ? workspace_of(bytes) : NULL;
  if (bytes && !memory) return Py_DECREF(outputs), PyErr_NoMemory();
  Py_BEGIN_ALLOW_THREADS
  self->entry(buffers, sizes, memory, NULL);
  Py_END_ALLOW_THREADS
  return outputs;
}

static PyObject* launcher_check(PyObject* object, PyObject* args) {
  void* buffers[MAX_TENSORS];
  int64_t sizes[MAX_SYMBOLS];
  char why[MAX_WHY];
  int bad = match((Launcher*)object, args, buffers, sizes, why);
  if (bad < 0) return NULL;
  if (bad) return PyUnicode_FromString(why);
  Py_RETURN_NONE;
}

static int launcher_init(Launcher* self, PyObject* args, PyObject* kwargs) {
  static char* names[] = {"entry", "symbols", "inputs", "outputs", "workspace", "types", "empty",
                          "is_neg", "miss",  "exchange", "owner", NULL};
  PyObject *symbols, *inputs, *outputs, *space, *types, *empty, *negative, *miss, *exchange, *owner;
  unsigned long long entry;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K$OOOOO!OOOOO", names, &entry, &symbols, &inputs, &outputs, &space,
                                   &PyTuple_Type, &types, &empty, &negative, &miss, &exchange, &owner))
    return -1;
  if (!entry || !PyTuple_Size(types) || !PyCallable_Check(empty) || !PyCallable_Check(negative) ||
       !PyExceptionClass_Check(miss)) {
    PyErr_SetString(PyExc_ValueError, "launch plan: needs an address, a tensor type, functions and an exception class");
    return -1;
  }
  self->entry = (Entry)(uintptr_t)entry;
  Py_INCREF(self->types = types), Py_INCREF(self->empty = empty);
  Py_INCREF(self->miss = miss), Py_INCREF(self->owner = owner);
  Py_INCREF(self->negative = negative);
  if (plan_exchange(exchange, self) || plan_symbols(symbols, self) || plan_inputs(inputs, self)) return -1;
  return plan_outputs(outputs, self) || plan_dim(space, &self->workspace, self->n_symbols) ? -1 : 0;
}

static int launcher_clear(PyObject* object) {
  Launcher* self = (Launcher*)object;
  Py_CLEAR(self->types);
  Py_CLEAR(self->empty);
  Py_CLEAR(self->miss);
  Py_CLEAR(self->owner);
  Py_CLEAR(self->negative);
  Py_CLEAR(self->exchange_capsule);
  for (int i = 0; self->outputs && i < self->n_outputs; i++) {
    Py_CLEAR(self->outputs[i].dtype);
    Py_CLEAR(self->outputs[i].sizes);
    Py_CLEAR(self->outputs[i].strides);
  }
  return 0;
}

static int launcher_traverse(PyObject* object, visitproc visit, void* arg) {
  Launcher* self = (Launcher*)object;
  Py_VISIT(Py_TYPE(object));
  Py_VISIT(self->types);
  Py_VISIT(self->empty);
  Py_VISIT(self->negative);
  Py_VISIT(self->miss);
  Py_VISIT(self->owner);
  for (int i = 0; self->outputs && i < self->n_outputs; i++) Py_VISIT(self->outputs[i].dtype);
  return 0;
}

static void launcher_dealloc(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  launcher_clear(object);
  plan_free((Launcher*)object);
  freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
  release(object);
  Py_DECREF(type);
}

/* All is done here and not in __init__, so that no half-made or re-made launcher exists. */
static PyObject* launcher_new(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  PyObject* self = make(type, 0);
  if (self && launcher_init((Launcher*)self, args, kwargs)) Py_CLEAR(self);
  return self;
}

static PyMethodDef launcher_methods[] = {
    {"check", launcher_check, METH_VARARGS, "check(*tensors) -> why they do not fit, or None. Runs nothing."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot launcher_slots[] = {
    {Py_tp_new, (void*)launcher_new},
    {Py_tp_dealloc, (void*)launcher_dealloc},
    {Py_tp_traverse, (void*)launcher_traverse},
    {Py_tp_clear, (void*)launcher_clear},
    {Py_tp_call, (void*)launcher_call},
    {Py_tp_methods, launcher_methods},
    {Py_tp_doc, "Launcher(entry, *, symbols, inputs, outputs, workspace, types, empty, is_neg, miss, exchange, owner)\n\n"
                "A kernel as a callable: launcher(*tensors) -> tuple of new tensors."},
    {0, NULL},
};

PyType_Spec launcher_spec = {
    .name = "torch_autokernel._launcher.Launcher",
    .basicsize = sizeof(Launcher),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = launcher_slots,
};
