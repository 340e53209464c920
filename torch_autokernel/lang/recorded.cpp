// A call of two kernels, forward and backward, as one node of autograd. What `torch.autograd.Function` does around Python
// functions takes longer than small kernels. Compiled once for each torch, by lang/recorded.py; what is unusual here (gradients
// that are themselves recorded, tensors that are looked at, kernels that do not take them) is handed to Python.
#include <Python.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

using at::Tensor;
namespace ag = torch::autograd;

namespace {

constexpr int64_t NONE = -1, PASSED = -2;  // a tensor's gradient: there is none; it is the result's

struct Gil {
  PyGILState_STATE state = PyGILState_Ensure();
  ~Gil() { PyGILState_Release(state); }
};

// An owned reference; to be destroyed with the GIL.
struct Ref {
  PyObject* p;
  explicit Ref(PyObject* owned = nullptr) : p(owned) {}
  Ref(Ref&& o) noexcept : p(std::exchange(o.p, nullptr)) {}
  Ref(const Ref&) = delete;
  ~Ref() { Py_XDECREF(p); }
  explicit operator bool() const { return p; }
};

[[noreturn]] void raise() {
  python_error error;
  error.persist();
  throw error;
}

// What calls of one kind have in common. Python objects are borrowed from `owner`, a tuple.
struct Plan {
  PyObject *owner = nullptr, *forward, *backward, *gradients, *recorded, *miss;
  std::vector<int64_t> order, read, kept, back, strides, gradient;
  int64_t result, count;
  bool saves;
  uint64_t id;
  ~Plan() {
    if (!owner || !Py_IsInitialized()) return;
    Gil gil;
    Py_DECREF(owner);
  }
};

// A tensor that the gradient does not read, for second derivatives: never the tensor itself, which may hold the node.
struct Other {
  Tensor tensor;
  uint32_t version = 0;
};

Other unread(const Tensor& t) {
  const auto version = (uint32_t)t._version();
  if (!t.requires_grad()) return {t.detach(), version};
  if (!t.grad_fn()) return {t, version};
  Tensor same = t.detach();  // the same memory and version counter
  ag::impl::set_gradient_edge(same, ag::impl::gradient_edge(t));
  return {same, version};
}

bool is_looked_at() {
  return c10::impl::dispatch_mode_enabled() || c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

bool is_memory(const Tensor& t) {
  return t.layout() == at::kStrided && t.key_set().has(c10::DispatchKey::CPU) && !t.key_set().has(c10::DispatchKey::Python) &&
         !t.is_neg() && !t.is_conj();
}

Ref tuple_of(const std::vector<int64_t>& order, const std::vector<Tensor>& tensors) {
  Ref out(PyTuple_New((Py_ssize_t)order.size()));
  if (!out) raise();
  for (size_t k = 0; k < order.size(); k++) {
    PyObject* one = THPVariable_Wrap(tensors[order[k]]);
    if (!one) raise();
    PyTuple_SET_ITEM(out.p, (Py_ssize_t)k, one);
  }
  return out;
}

Ref list_of(const std::vector<Tensor>& tensors) {
  Ref out(PyList_New((Py_ssize_t)tensors.size()));
  if (!out) raise();
  for (size_t k = 0; k < tensors.size(); k++) {
    PyObject* one = THPVariable_Wrap(tensors[k]);  // None where undefined
    if (!one) raise();
    PyList_SET_ITEM(out.p, (Py_ssize_t)k, one);
  }
  return out;
}

const Tensor& item(PyObject* tuple, int64_t k) {
  PyObject* one = PyTuple_Check(tuple) && k < PyTuple_GET_SIZE(tuple) ? PyTuple_GET_ITEM(tuple, k) : nullptr;
  if (!one || !THPVariable_Check(one)) {
    PyErr_SetString(PyExc_TypeError, "a kernel returns a tuple of tensors, one for each output");
    raise();
  }
  return THPVariable_Unpack(one);
}

ag::variable_list listed(const Plan& plan, const Ref& list) {
  if (!list) raise();
  ag::variable_list out(plan.count);
  for (int64_t i = 0; i < plan.count; i++) {
    PyObject* one = PyList_Check(list.p) && i < PyList_GET_SIZE(list.p) ? PyList_GET_ITEM(list.p, i) : nullptr;
    if (one && THPVariable_Check(one)) out[i] = THPVariable_Unpack(one);
    else if (one != Py_None) {
      PyErr_SetString(PyExc_TypeError, "the gradients are a list, a tensor or None for each input");
      raise();
    }
  }
  return out;
}

ag::variable_list in_python(const Plan& plan, const std::vector<Tensor>& inputs) {
  Ref kept = list_of({inputs.begin(), inputs.end() - 1}), given(THPVariable_Wrap(inputs.back()));
  if (!given) raise();
  return listed(plan, Ref(PyObject_CallFunctionObjArgs(plan.gradients, kept.p, given.p, nullptr)));
}

// The gradients of all tensors from what was saved and, last, the result's gradient.
ag::variable_list gradients(const Plan& plan, std::vector<Tensor>& inputs) {
  bool ours = !is_looked_at();
  for (auto& t : inputs) ours = ours && is_memory(t);
  if (!ours) return in_python(plan, inputs);
  const Tensor given = inputs.back();
  if (given.strides() != at::IntArrayRef(plan.strides))
    inputs.back() = at::empty_strided(given.sizes(), plan.strides, given.options()).copy_(given);
  Ref tensors = tuple_of(plan.back, inputs);
  Ref made(PyObject_Call(plan.backward, tensors.p, nullptr));
  if (!made) {
    if (!PyErr_ExceptionMatches(plan.miss)) raise();
    PyErr_Clear();
    inputs.back() = given;
    return in_python(plan, inputs);
  }
  ag::variable_list out(plan.count);
  for (int64_t i = 0; i < plan.count; i++) {
    int64_t k = plan.gradient[i];
    if (k == PASSED) out[i] = given;
    else if (k != NONE) out[i] = item(made.p, k);
  }
  return out;
}

// The gradients as functions that autograd records.
ag::variable_list again(const Plan& plan, const std::vector<Tensor>& inputs, const std::vector<Other>& beside) {
  Ref kept = list_of({inputs.begin(), inputs.end() - 1}), given(THPVariable_Wrap(inputs.back()));
  Ref more(PyList_New((Py_ssize_t)beside.size()));
  if (!given || !more) raise();
  for (size_t k = 0; k < beside.size(); k++) {
    PyObject* one = Py_NewRef(Py_None);
    if (beside[k].tensor.defined()) {
      Py_DECREF(one);
      PyObject* wrapped = THPVariable_Wrap(beside[k].tensor);
      one = wrapped ? Py_BuildValue("(NI)", wrapped, (unsigned)beside[k].version) : nullptr;
    }
    if (!one) raise();
    PyList_SET_ITEM(more.p, (Py_ssize_t)k, one);
  }
  return listed(plan, Ref(PyObject_CallFunctionObjArgs(plan.recorded, kept.p, more.p, given.p, nullptr)));
}

struct Recorded : ag::Node {
  std::shared_ptr<const Plan> plan;
  std::vector<ag::SavedVariable> saved;
  std::vector<Other> others;

  std::string name() const override { return "AutokernelBackward"; }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!plan->saves) return;  // then one may go back as often as one likes
    for (auto& s : saved) s.reset_data();
    others.clear();
  }

  ag::variable_list apply(ag::variable_list&& given) override {
    if (!given[0].defined()) return ag::variable_list(plan->count);
    std::vector<Tensor> inputs;
    std::vector<Other> beside;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      inputs.reserve(saved.size() + 1);
      for (auto& s : saved) inputs.push_back(s.unpack(getptr()));
      if (ag::GradMode::is_enabled()) beside = others;
    }
    inputs.push_back(given[0]);
    Gil gil;
    if (ag::GradMode::is_enabled()) return again(*plan, inputs, beside);
    return gradients(*plan, inputs);
  }

  // Compiled autograd: the gradient is one opaque call in its graph, of the tensors that are saved.
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(plan->id);
    args.collect(saved, true);
  }

  ag::variable_list apply_with_saved(const ag::variable_list& given, torch::dynamo::autograd::SwapSavedVariables& swapped) override {
    namespace ca = torch::dynamo::autograd;
    swapped.before(saved);
    ag::variable_list tensors;
    for (auto& s : saved) tensors.push_back(s.unpack(getptr()));
    ca::PackedArgs packed;
    packed.pack(tensors);
    const auto args = std::move(packed).vec();
    std::vector<at::TypePtr> types;
    for (const auto& arg : args) types.push_back(arg.isTensor() ? at::TensorType::get() : arg.type());
    const auto outputs = ca::IValuePacker<std::vector<std::optional<ag::InputMetadata>>>::pack(ca::get_input_metadata(next_edges()));
    auto call = [plan = plan](const ag::variable_list& grads, const std::vector<c10::IValue>& values) {
      std::vector<Tensor> inputs = ca::PackedArgs(values).unpack<ag::variable_list>();
      if (!grads[0].defined()) return ag::variable_list(plan->count);
      inputs.push_back(grads[0]);
      Gil gil;
      return gradients(*plan, inputs);
    };
    const auto& python = ca::getPyCompilerInterface();
    const auto bound = python->bind_function(swapped.get_py_compiler(), name(), call, types, true, false);
    auto out = python->call_function(swapped.get_py_compiler(), "apply_functional", bound, given, args, outputs);
    swapped.after(saved);
    return out;
  }
};

struct Recorder {
  PyObject_HEAD
  std::shared_ptr<const Plan> plan;
};

// A 1-tuple of the result.
PyObject* call(PyObject* self, PyObject* args, PyObject* kwargs) {
  HANDLE_TH_ERRORS
  const auto plan = ((Recorder*)self)->plan;  // held: the call may drop the recorder
  if (!plan) return PyErr_SetString(PyExc_RuntimeError, "this recorder was cleared by the garbage collector"), nullptr;
  if ((kwargs && PyDict_GET_SIZE(kwargs)) || PyTuple_GET_SIZE(args) != plan->count) {
    PyErr_Format(PyExc_TypeError, "takes %lld tensors and no keywords", (long long)plan->count);
    return nullptr;
  }
  ag::variable_list tensors;
  tensors.reserve(plan->count);
  bool records = false;
  for (int64_t i = 0; i < plan->count; i++) {
    PyObject* one = PyTuple_GET_ITEM(args, i);
    if (!THPVariable_Check(one)) return PyErr_SetString(PyExc_TypeError, "takes tensors"), nullptr;
    const Tensor& t = THPVariable_Unpack(one);
    if (t.is_inference()) return PyErr_SetString(plan->miss, "a tensor was made in inference mode"), nullptr;
    records = records || t.requires_grad();
    tensors.push_back(t);
  }
  Ref operands(PyTuple_New((Py_ssize_t)plan->order.size()));
  if (!operands) return nullptr;
  for (size_t k = 0; k < plan->order.size(); k++)
    PyTuple_SET_ITEM(operands.p, (Py_ssize_t)k, Py_NewRef(PyTuple_GET_ITEM(args, plan->order[k])));
  Ref made;
  {
    ag::AutoGradMode off(false);
    made.p = PyObject_Call(plan->forward, operands.p, nullptr);
  }
  if (!made) return nullptr;
  Tensor result = item(made.p, plan->result);
  if (records && ag::GradMode::is_enabled()) {
    auto node = c10::make_intrusive<Recorded>();
    node->plan = plan;
    node->set_next_edges(ag::collect_next_edges(tensors));
    ag::set_history(result, node);
    node->saved.reserve(plan->read.size() + plan->kept.size());
    for (int64_t i : plan->read) node->saved.emplace_back(tensors[i], false);
    for (int64_t k : plan->kept) node->saved.emplace_back(item(made.p, k), k == plan->result);
    node->others.resize(tensors.size());
    for (int64_t i = 0; i < plan->count; i++)
      if (std::find(plan->read.begin(), plan->read.end(), i) == plan->read.end()) node->others[i] = unread(tensors[i]);
  }
  PyObject* wrapped = THPVariable_Wrap(result);
  return wrapped ? Py_BuildValue("(N)", wrapped) : nullptr;
  END_HANDLE_TH_ERRORS
}

bool integers(PyObject* from, std::vector<int64_t>& out) {
  if (!PyTuple_Check(from)) return PyErr_SetString(PyExc_TypeError, "numbers stand in a tuple"), false;
  for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(from); k++) {
    out.push_back(PyLong_AsLongLong(PyTuple_GET_ITEM(from, k)));
    if (out.back() == -1 && PyErr_Occurred()) return false;
  }
  return true;
}

bool below(const std::vector<int64_t>& numbers, int64_t least, int64_t limit) {
  for (int64_t n : numbers)
    if (n < least || n >= limit) return PyErr_SetString(PyExc_ValueError, "a number names no tensor"), false;
  return true;
}

PyObject* make(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  HANDLE_TH_ERRORS
  static std::atomic<uint64_t> plans{0};
  static const char* names[] = {"forward", "backward", "gradients", "recorded", "miss", "count", "order", "result",
                                "kept", "read", "back", "strides", "gradient", nullptr};
  auto plan = std::make_shared<Plan>();
  long long count, result;
  PyObject *order, *kept, *read, *back, *strides, *gradient;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$OOOOOLOLOOOOO", const_cast<char**>(names), &plan->forward, &plan->backward,
                                   &plan->gradients, &plan->recorded, &plan->miss, &count, &order, &result, &kept, &read, &back,
                                   &strides, &gradient))
    return nullptr;
  if (!integers(order, plan->order) || !integers(kept, plan->kept) || !integers(read, plan->read) || !integers(back, plan->back) ||
      !integers(strides, plan->strides) || !integers(gradient, plan->gradient))
    return nullptr;
  int64_t inputs = (int64_t)(plan->read.size() + plan->kept.size()) + 1;
  if (!below(plan->order, 0, count) || !below(plan->read, 0, count) || !below(plan->back, 0, inputs) ||
      !below(plan->gradient, PASSED, INT64_MAX) || (int64_t)plan->gradient.size() != count)
    return PyErr_Occurred() ? nullptr : (PyErr_SetString(PyExc_ValueError, "a gradient for each tensor"), nullptr);
  plan->owner = PyTuple_Pack(5, plan->forward, plan->backward, plan->gradients, plan->recorded, plan->miss);
  if (!plan->owner) return nullptr;
  plan->count = count, plan->result = result, plan->saves = inputs > 1, plan->id = plans++;
  auto* self = (Recorder*)type->tp_alloc(type, 0);
  if (self) new (&self->plan) std::shared_ptr<const Plan>(std::move(plan));
  return (PyObject*)self;
  END_HANDLE_TH_ERRORS
}

// The collector sees the plan's objects only while no node of autograd holds them too.
int visit_all(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  const auto& plan = ((Recorder*)self)->plan;
  if (plan && plan.use_count() == 1) Py_VISIT(plan->owner);
  return 0;
}

int clear(PyObject* self) {
  ((Recorder*)self)->plan.reset();
  return 0;
}

void drop(PyObject* self) {
  PyObject_GC_UnTrack(self);
  ((Recorder*)self)->plan.~shared_ptr();
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

PyType_Slot slots[] = {
    {Py_tp_new, (void*)make},
    {Py_tp_dealloc, (void*)drop},
    {Py_tp_call, (void*)call},
    {Py_tp_traverse, (void*)visit_all},
    {Py_tp_clear, (void*)clear},
    {Py_tp_doc, (void*)"Recorder(*, forward, backward, ...): `recorder(*tensors)` gives a 1-tuple of the result, recorded by autograd."},
    {0, nullptr},
};
PyType_Spec spec = {"autokernel_recorded.Recorder", sizeof(Recorder), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "autokernel_recorded", nullptr, -1, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit_autokernel_recorded() {
  PyObject* made = PyModule_Create(&module);
  PyObject* type = made ? PyType_FromSpec(&spec) : nullptr;
  if (!type || PyModule_AddObject(made, "Recorder", type)) {
    Py_XDECREF(type);
    Py_XDECREF(made);
    return nullptr;
  }
  return made;
}
