/* The type `CallCache`: which known call is this, and do its guards hold? What it cannot tell is a miss, and Python looks. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "launcher.h"

#define MAX_ARGS 16

/* An argument as it must be: a tensor of these sizes, or this very value. */
typedef struct {
  PyObject* value; /* borrowed from the routes; NULL for a tensor */
  int ndim, exact, grads;
  uint8_t code, bits;
  int64_t* dims; /* owned: sizes, and strides behind them where `exact` */
} Arg;

/* Everything but `args` is borrowed from the tuple of routes. */
typedef struct {
  int n_args;
  Arg* args; /* owned */
  PyObject *recording, *needs, *world, *values, *cells, *empty, *order, *parameters, *call, *finish;
} Route;

typedef struct {
  PyObject_HEAD
  int n_routes;
  Route* routes; /* owned */
  PyObject *given, *types, *recording, *miss, *missed, *exchange_capsule, *requires_grad;
  const DlExchange* exchange;
} CallCache;

/* What is read of the arguments, once a call. */
typedef struct {
  PyObject* args;
  DlTensor tensors[MAX_ARGS];
  int8_t state[MAX_ARGS]; /* 0: not read yet, 1: a tensor, -1: none that can be read */
  int recording;          /* whether gradients are; -1: not asked yet */
} Call;

static int bad(const char* what) {
  if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "route: %s", what);
  return -1;
}

/* Foreign code failed while it was asked: Python will ask again and see it. 0, or -1 for what must not be swallowed. */
static int unknown(void) {
  if (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError)) return -1;
  return PyErr_Clear(), 0;
}

static int read_tensor(const CallCache* self, Call* call, int i) {
  PyObject* arg = PyTuple_GetItem(call->args, i);
  Py_ssize_t known = PyTuple_Size(self->types), k = 0;
  while (k < known && PyTuple_GetItem(self->types, k) != (PyObject*)Py_TYPE(arg)) k++;
  call->state[i] = -1;
  if (k == known) return 0;
  memset(&call->tensors[i], 0, sizeof call->tensors[i]);
  if (self->exchange->tensor_from_object(arg, &call->tensors[i])) return unknown();
  call->state[i] = 1;
  return 0;
}

static int is_zero(PyObject* value) { return PyFloat_CheckExact(value) && PyFloat_AsDouble(value) == 0; }

/* 1 where the argument is as it must be, 0 where it is not, -1 with a Python error set. */
static int fits(const CallCache* self, const Arg* want, Call* call, int i) {
  if (want->value) {
    PyObject* arg = PyTuple_GetItem(call->args, i);
    if (Py_TYPE(arg) != Py_TYPE(want->value)) return 0;
    if (is_zero(arg) && signbit(PyFloat_AsDouble(arg)) != signbit(PyFloat_AsDouble(want->value))) return 0;
    return PyObject_RichCompareBool(arg, want->value, Py_EQ);
  }
  if (!call->state[i] && read_tensor(self, call, i)) return -1;
  const DlTensor* t = &call->tensors[i];
  if (call->state[i] < 0 || t->ndim != want->ndim) return 0;
  const size_t bytes = (size_t)want->ndim * sizeof *want->dims;
  if (memcmp(t->shape, want->dims, bytes)) return 0;
  if (!want->exact) return 1;
  return t->dtype.code == want->code && t->dtype.bits == want->bits && t->device.type == DL_DEVICE_CPU &&
         !memcmp(t->strides, want->dims + want->ndim, bytes);
}

static int truth(PyObject* result) {
  int yes = result ? PyObject_IsTrue(result) : -1;
  Py_XDECREF(result);
  return yes;
}

static int requires_grad(const CallCache* self, PyObject* tensor) { return truth(PyObject_GetAttr(tensor, self->requires_grad)); }

static int is_recording(const CallCache* self, Call* call) {
  if (call->recording < 0) call->recording = truth(PyObject_CallFunctionObjArgs(self->recording, NULL));
  return call->recording;
}

static int is_plain(const Route* route) { return route->order == Py_None; }

/* Whether gradients are recorded as the route wants it. `recording` is None where none may be, else whether they are recorded at
 * all; the arguments and the parameters that it names then need gradients as they did. */
static int fits_gradients(const CallCache* self, const Route* route, Call* call) {
  int on = is_recording(self, call), needs;
  if (on < 0) return -1;
  if (route->recording != Py_None && on != (route->recording == Py_True)) return 0;
  if (!on) return 1;
  for (int i = 0; i < route->n_args; i++) {
    if (route->args[i].value) continue;
    if ((needs = requires_grad(self, PyTuple_GetItem(call->args, i))) < 0) return -1;
    if (needs != route->args[i].grads) return 0;
  }
  for (Py_ssize_t k = 0, n = PyTuple_Size(route->parameters); k < n; k++) {
    int wanted = route->needs != Py_None && PyTuple_GetItem(route->needs, k) == Py_True;
    if ((needs = requires_grad(self, PyTuple_GetItem(route->parameters, k))) < 0) return -1;
    if (needs != wanted) return 0;
  }
  return 1;
}

/* Rows (callable, arguments, expected): the result must be that very object, or false where None is expected. */
static int world_holds(PyObject* rows) {
  for (Py_ssize_t k = 0, n = PyTuple_Size(rows); k < n; k++) {
    PyObject *row = PyTuple_GetItem(rows, k), *expected = PyTuple_GetItem(row, 2);
    PyObject* said = PyObject_Call(PyTuple_GetItem(row, 0), PyTuple_GetItem(row, 1), NULL);
    if (!said) return -1;
    int holds = said == expected || (expected == Py_None && PyObject_Not(said));
    Py_DECREF(said);
    if (holds <= 0) return holds;
  }
  return 1;
}

/* Rows (dict, key, value), by identity. */
static int values_hold(PyObject* rows) {
  for (Py_ssize_t k = 0, n = PyTuple_Size(rows); k < n; k++) {
    PyObject* row = PyTuple_GetItem(rows, k);
    PyObject* found = PyDict_GetItemWithError(PyTuple_GetItem(row, 0), PyTuple_GetItem(row, 1));
    if (!found && PyErr_Occurred()) return -1;
    /* as `dict.get` has it: what is None may as well be absent */
    if (found != PyTuple_GetItem(row, 2) && (found || PyTuple_GetItem(row, 2) != Py_None)) return 0;
  }
  return 1;
}

static int cells_hold(PyObject* rows) {
  for (Py_ssize_t k = 0, n = PyTuple_Size(rows); k < n; k++) {
    PyObject *row = PyTuple_GetItem(rows, k), *found = PyObject_GetAttrString(PyTuple_GetItem(row, 0), "cell_contents");
    if (!found) return -1;
    int same = found == PyTuple_GetItem(row, 1);
    Py_DECREF(found);
    if (!same) return 0;
  }
  return 1;
}

static int all_empty(PyObject* dicts) {
  for (Py_ssize_t k = 0, n = PyTuple_Size(dicts); k < n; k++)
    if (PyDict_Size(PyTuple_GetItem(dicts, k))) return 0;
  return 1;
}

static int may_take(const Route* route) {
  int holds = world_holds(route->world);
  if (holds > 0) holds = values_hold(route->values);
  if (holds > 0) holds = cells_hold(route->cells);
  return holds > 0 ? all_empty(route->empty) : holds;
}

/* The kernel's tensors: arguments, and parameters behind them, in its order. */
static PyObject* operands(const Route* route, PyObject* args) {
  Py_ssize_t n = PyTuple_Size(route->order), given = PyTuple_Size(args);
  PyObject* out = PyTuple_New(n);
  for (Py_ssize_t k = 0; out && k < n; k++) {
    long at = PyLong_AsLong(PyTuple_GetItem(route->order, k));
    PyObject* one = at < given ? PyTuple_GetItem(args, at) : PyTuple_GetItem(route->parameters, at - given);
    Py_INCREF(one);
    if (PyTuple_SetItem(out, k, one)) Py_CLEAR(out);
  }
  return out;
}

/* The result; NULL with a Python error set, or without one where the kernel does not take the tensors. */
static PyObject* take(const CallCache* self, const Route* route, PyObject* args) {
  PyObject* tensors = operands(route, args);
  PyObject* results = tensors ? PyObject_Call(route->call, tensors, NULL) : NULL;
  Py_XDECREF(tensors);
  if (!results) {
    if (PyErr_ExceptionMatches(self->missed)) PyErr_Clear();
    return NULL;
  }
  PyObject* out = route->finish == Py_None ? PySequence_GetItem(results, 0)
                                           : PyObject_CallFunctionObjArgs(route->finish, results, NULL);
  Py_DECREF(results);
  return out;
}

/* 1 where the route is for this call, 0 where it is not, -1 with a Python error set. */
static int leads(const CallCache* self, const Route* route, Call* call) {
  if (PyTuple_Size(call->args) != route->n_args) return 0;
  int yes = 1;
  for (int i = 0; yes > 0 && i < route->n_args; i++) yes = fits(self, &route->args[i], call, i);
  if (yes > 0) yes = fits_gradients(self, route, call);
  return yes > 0 ? may_take(route) : yes;
}

static PyObject* cache_call(PyObject* object, PyObject* args, PyObject* kwargs) {
  CallCache* self = (CallCache*)object;
  Call call;
  PyObject* given;
  if (!self->given) return PyErr_SetString(PyExc_RuntimeError, "this cache was cleared by the garbage collector"), NULL;
  if ((kwargs && PyDict_Size(kwargs)) || !PyArg_ParseTuple(args, "O!", &PyTuple_Type, &given)) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a call cache takes the tuple of arguments alone");
    return NULL;
  }
  memset(call.state, 0, sizeof call.state);
  call.args = given, call.recording = -1;
  for (int r = 0; r < self->n_routes; r++) {
    const Route* route = &self->routes[r];
    int yes = leads(self, route, &call);
    if (yes < 0 && unknown()) return NULL;
    if (yes <= 0) continue;
    if (is_plain(route)) return PyObject_Call(route->call, given, NULL);
    PyObject* out = take(self, route, given);
    if (out || PyErr_Occurred()) return out;
    memset(call.state, 0, sizeof call.state), call.recording = -1; /* Python ran: what was read may have changed */
  }
  Py_INCREF(self->miss);
  return self->miss;
}

static int read_dims(PyObject* from, int ndim, int64_t* out) {
  for (int d = 0; d < ndim; d++)
    if ((out[d] = PyLong_AsLongLong(PyTuple_GetItem(from, d))) == -1 && PyErr_Occurred()) return -1;
  return 0;
}

/* (value,), or (sizes, strides or None, code, bits, whether it requires a gradient) */
static int read_arg(PyObject* from, Arg* out) {
  PyObject *sizes, *strides;
  int code, bits;
  if (!PyTuple_Check(from)) return bad("an argument is a tuple");
  if (PyTuple_Size(from) == 1) return out->value = PyTuple_GetItem(from, 0), 0;
  if (!PyArg_ParseTuple(from, "O!Oiip", &PyTuple_Type, &sizes, &strides, &code, &bits, &out->grads)) return -1;
  Py_ssize_t ndim = PyTuple_Size(sizes);
  out->exact = strides != Py_None;
  if (ndim > MAX_DIMS || (out->exact && !PyTuple_Check(strides)) || (out->exact && PyTuple_Size(strides) != ndim))
    return bad("sizes and strides are tuples of one length, at most 64");
  if (!(out->dims = calloc(2 * (size_t)ndim + 1, sizeof *out->dims))) return PyErr_NoMemory(), -1;
  out->ndim = (int)ndim, out->code = (uint8_t)code, out->bits = (uint8_t)bits;
  return read_dims(sizes, out->ndim, out->dims) || (out->exact && read_dims(strides, out->ndim, out->dims + ndim)) ? -1 : 0;
}

static int rows_of(PyObject* rows, Py_ssize_t n, PyTypeObject* first, const char* what) {
  for (Py_ssize_t k = 0; k < PyTuple_Size(rows); k++) {
    PyObject* row = PyTuple_GetItem(rows, k);
    if (!PyTuple_Check(row) || PyTuple_Size(row) != n) return bad(what);
    if (first && !PyType_IsSubtype(Py_TYPE(PyTuple_GetItem(row, 0)), first)) return bad(what);
  }
  return 0;
}

static int check_route(const Route* r) {
  if (rows_of(r->world, 3, NULL, "a check of the world is (callable, arguments, expected)")) return -1;
  for (Py_ssize_t k = 0; k < PyTuple_Size(r->world); k++)
    if (!PyTuple_Check(PyTuple_GetItem(PyTuple_GetItem(r->world, k), 1))) return bad("arguments are a tuple");
  if (rows_of(r->values, 3, &PyDict_Type, "a value is (dict, key, value)") || rows_of(r->cells, 2, NULL, "a cell is (cell, contents)"))
    return -1;
  for (Py_ssize_t k = 0; k < PyTuple_Size(r->empty); k++)
    if (!PyType_IsSubtype(Py_TYPE(PyTuple_GetItem(r->empty, k)), &PyDict_Type)) return bad("what must be empty is a dict");
  if (r->order != Py_None && !PyTuple_Check(r->order)) return bad("`order` is None or a tuple");
  for (Py_ssize_t k = 0, n = is_plain(r) ? 0 : PyTuple_Size(r->order); k < n; k++) {
    long at = PyLong_AsLong(PyTuple_GetItem(r->order, k));
    if (at < 0 || at >= r->n_args + PyTuple_Size(r->parameters)) return bad("the order names no argument and no parameter");
  }
  if (r->recording != Py_None && !PyBool_Check(r->recording)) return bad("`recording` is None or a flag");
  if (r->needs != Py_None && (!PyTuple_Check(r->needs) || PyTuple_Size(r->needs) != PyTuple_Size(r->parameters)))
    return bad("`needs` is None or a flag for each parameter");
  return PyCallable_Check(r->call) && (r->finish == Py_None || PyCallable_Check(r->finish)) ? 0 : bad("a call is callable");
}

static int read_route(PyObject* from, Route* out) {
  PyObject *args, *tuple = (PyObject*)&PyTuple_Type;
  if (!PyTuple_Check(from)) return bad("a route is a tuple");
  if (!PyArg_ParseTuple(from, "O!OOO!O!O!O!OO!OO", tuple, &args, &out->recording, &out->needs, tuple, &out->world, tuple, &out->values, tuple,
                        &out->cells, tuple, &out->empty, &out->order, tuple, &out->parameters, &out->call, &out->finish))
    return -1;
  Py_ssize_t n = PyTuple_Size(args);
  if (n > MAX_ARGS) return bad("at most 16 arguments");
  if (!(out->args = calloc((size_t)n + 1, sizeof *out->args))) return PyErr_NoMemory(), -1;
  out->n_args = (int)n;
  for (Py_ssize_t i = 0; i < n; i++)
    if (read_arg(PyTuple_GetItem(args, i), &out->args[i])) return -1;
  return check_route(out);
}

static int cache_init(CallCache* self, PyObject* args, PyObject* kwargs) {
  static char* names[] = {"routes", "types", "recording", "miss", "missed", "exchange", NULL};
  PyObject *routes, *types, *recording, *miss, *missed, *exchange;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!$O!OOOO", names, &PyTuple_Type, &routes, &PyTuple_Type, &types, &recording,
                                   &miss, &missed, &exchange))
    return -1;
  if (!PyCallable_Check(recording) || !PyExceptionClass_Check(missed)) return bad("needs a function and an exception class");
  if (!(self->exchange = exchange_of(exchange)) || !(self->requires_grad = PyUnicode_InternFromString("requires_grad"))) return -1;
  Py_INCREF(self->exchange_capsule = exchange), Py_INCREF(self->given = routes), Py_INCREF(self->types = types);
  Py_INCREF(self->recording = recording), Py_INCREF(self->miss = miss), Py_INCREF(self->missed = missed);
  Py_ssize_t n = PyTuple_Size(routes);
  if (!(self->routes = calloc((size_t)n + 1, sizeof *self->routes))) return PyErr_NoMemory(), -1;
  for (Py_ssize_t r = 0; r < n; r++) {
    self->n_routes = (int)r + 1;
    if (read_route(PyTuple_GetItem(routes, r), &self->routes[r])) return -1;
  }
  return 0;
}

static int cache_clear(PyObject* object) {
  CallCache* self = (CallCache*)object;
  Py_CLEAR(self->given);
  Py_CLEAR(self->types);
  Py_CLEAR(self->recording);
  Py_CLEAR(self->miss);
  Py_CLEAR(self->missed);
  Py_CLEAR(self->exchange_capsule);
  Py_CLEAR(self->requires_grad);
  return 0;
}

static int cache_traverse(PyObject* object, visitproc visit, void* arg) {
  CallCache* self = (CallCache*)object;
  Py_VISIT(Py_TYPE(object));
  Py_VISIT(self->given);
  Py_VISIT(self->types);
  Py_VISIT(self->recording);
  Py_VISIT(self->miss);
  Py_VISIT(self->missed);
  return 0;
}

static void cache_dealloc(PyObject* object) {
  CallCache* self = (CallCache*)object;
  PyTypeObject* type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  cache_clear(object);
  for (int r = 0; r < self->n_routes; r++) {
    for (int i = 0; self->routes[r].args && i < self->routes[r].n_args; i++) free(self->routes[r].args[i].dims);
    free(self->routes[r].args);
  }
  free(self->routes);
  freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
  release(object);
  Py_DECREF(type);
}

static PyObject* cache_new(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  PyObject* self = make(type, 0);
  if (self && cache_init((CallCache*)self, args, kwargs)) Py_CLEAR(self);
  return self;
}

static PyType_Slot cache_slots[] = {
    {Py_tp_new, (void*)cache_new},
    {Py_tp_dealloc, (void*)cache_dealloc},
    {Py_tp_traverse, (void*)cache_traverse},
    {Py_tp_clear, (void*)cache_clear},
    {Py_tp_call, (void*)cache_call},
    {Py_tp_doc, "CallCache(routes, *, types, recording, miss, missed, exchange)\n\n"
                "cache(args) -> what the first route that is for these arguments gives, or `miss`."},
    {0, NULL},
};

PyType_Spec cache_spec = {
    .name = "torch_autokernel._launcher.CallCache",
    .basicsize = sizeof(CallCache),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = cache_slots,
};
