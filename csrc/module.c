/* The module `torch_autokernel._launcher`. */
#include "launcher.h"

static int module_exec(PyObject* module) {
  PyObject* type = PyType_FromSpec(&launcher_spec);
  if (!type || PyModule_AddObject(module, "Launcher", type)) return Py_XDECREF(type), -1;
  type = PyType_FromSpec(&cache_spec);
  if (!type || PyModule_AddObject(module, "CallCache", type)) return Py_XDECREF(type), -1;
  return PyModule_AddIntConstant(module, "ABI", LAUNCHER_ABI);
}

static PyMethodDef module_methods[] = {
    {"inside", indices_inside, METH_VARARGS,
     "inside(exchange, tensor, limit, spared) -> whether all elements are within [0, limit) or equal to `spared`, unless it is None."},
    {"huge_pages", pages_huge, METH_O,
     "huge_pages(flag) -> the flag before. Whether new outputs of 32 MiB and more are advised to be in huge pages."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, (void*)module_exec}, {0, NULL}};

static struct PyModuleDef module_def = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_launcher",
    .m_doc = "Calls compiled kernels on torch tensors, without torch's headers.",
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__launcher(void) { return PyModuleDef_Init(&module_def); }
