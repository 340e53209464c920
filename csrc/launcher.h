/* One compiled kernel with everything that its call needs. See torch_autokernel/lang/launch.py for the Python side. */
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#include "dlpack_exchange.h"

#define LAUNCHER_ABI 1 /* of the entry's C signature and the meaning of its arguments */
#define MAX_TENSORS 128
#define MAX_SYMBOLS 128
#define MAX_DIMS 64
#define MAX_WHY 256

/* void ak_entry(void* const* buffers, const int64_t* sizes, void* workspace, void* stream) */
typedef void (*Entry)(void* const*, const int64_t*, void*, void*);

typedef struct {
  int64_t coefficient;
  int count;
  uint16_t* symbols; /* owned */
} Term;

/* A size: a constant, one symbol, or a polynomial. */
typedef struct {
  enum { CONSTANT, SYMBOL, POLYNOMIAL } kind;
  int64_t value; /* the constant, or the symbol's index */
  int count;
  Term* terms; /* owned */
  char* text;  /* owned; how messages show it */
} Dim;

typedef struct {
  uint8_t code, bits;
  int ndim;
  int64_t alignment;
  Dim *shape, *stride; /* owned; a constant stride of 0 on a dimension that is constantly 1 fits any stride */
} Input;

typedef struct {
  int ndim;
  Dim *shape, *stride;
  PyObject* dtype;
  PyObject *sizes, *strides; /* the argument tuples of the last allocation, or NULL */
  int64_t* last;             /* their values: sizes, then strides */
} Output;

typedef struct {
  char* name;
  int64_t low, high;
} Symbol;

typedef struct {
  PyObject_HEAD
  Entry entry;
  int n_inputs, n_outputs, n_symbols;
  Input* inputs;
  Output* outputs;
  Symbol* symbols;
  Dim workspace;
  PyObject* types; /* tuple of the tensor types that are taken, exactly */
  PyObject* empty; /* empty(size, stride, dtype) -> tensor */
  PyObject* miss;  /* exception class for tensors that do not fit */
  PyObject* owner; /* whatever keeps the entry's code mapped */
  PyObject* negative; /* is_neg(tensor) -> bool: memory alone does not tell */
  PyObject* exchange_capsule;
  const DlExchange* exchange;
} Launcher;

/* plan.c: from Python data. All return 0, or -1 with a Python error set. */
int plan_dim(PyObject* from, Dim* out, int n_symbols);
int plan_inputs(PyObject* from, Launcher* self);
int plan_outputs(PyObject* from, Launcher* self);
int plan_symbols(PyObject* from, Launcher* self);
const DlExchange* exchange_of(PyObject* capsule);
int plan_exchange(PyObject* capsule, Launcher* self);
void plan_free_dim(Dim* dim);
void plan_free(Launcher* self);

/* match.c */
/* The value under `sizes` in `*out`; -1 where it does not fit into 64 bits. */
int dim_value(const Dim* dim, const int64_t* sizes, int64_t* out);
/* Fill `buffers` and `sizes` from the tensors. 0: they fit; 1: they do not, and `why` says so; -1: Python error. */
int match(Launcher* self, PyObject* args, void** buffers, int64_t* sizes, char* why);

/* workspace.c: at least `bytes` of 64-byte aligned memory of this thread, or NULL. */
void* workspace_of(int64_t bytes);

/* pages.c: advise the kernel to back a large new output with huge pages. */
void in_huge_pages(void* data, uint64_t bytes);
PyObject* pages_huge(PyObject* module, PyObject* flag);

/* indices.c: inside(exchange, tensor, limit, spared or None) -> bool */
PyObject* indices_inside(PyObject* module, PyObject* args);

/* launcher.c, call_cache.c */
extern PyType_Spec launcher_spec, cache_spec;
