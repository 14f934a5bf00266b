#include "tvm_runtime.h"

#include <dlfcn.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "errors.h"

namespace cospipe {
namespace {

constexpr int64_t kOneCoreAThread = -2;
constexpr int64_t kThreadsShareCores = -3;

void* open_library(const std::string& path) {
  // Never closed: the pools' threads run until the process ends.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) throw Error(std::string("The TVM runtime cannot be loaded: ") + dlerror() + ".");
  return library;
}

template <typename Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) throw Error(std::string("libtvm_ffi.so lacks ") + name + "; it is of another version.");
}

TvmFunctions find_functions(void* library) {
  TvmFunctions found;
  find(library, "TVMFFIObjectIncRef", found.object_inc_ref);
  find(library, "TVMFFIObjectDecRef", found.object_dec_ref);
  find(library, "TVMFFIErrorMoveFromRaised", found.error_move_from_raised);
  find(library, "TVMFFIFunctionGetGlobal", found.function_get_global);
  find(library, "TVMFFIFunctionCall", found.function_call);
  find(library, "TVMFFITensorFromDLPack", found.tensor_from_dlpack);
  return found;
}

template <typename Cell>
const Cell& cell_of(const void* object) {
  return *reinterpret_cast<const Cell*>(static_cast<const char*>(object) + sizeof(TVMFFIObject));
}

std::string text_of(const TVMFFIByteArray& bytes) { return std::string(bytes.data, bytes.size); }

DLDataType dlpack_type(ElementType type) {
  const auto bits = static_cast<uint8_t>(8 * element_bytes(type));
  switch (type) {
    case ElementType::kFloat64:
    case ElementType::kFloat32:
    case ElementType::kFloat16:
      return {kDLFloat, bits, 1};
    case ElementType::kUInt8:
      return {kDLUInt, bits, 1};
    case ElementType::kBool:
      return {kDLBool, bits, 1};
    default:
      return {kDLInt, bits, 1};
  }
}

// What TVM is given of a tensor; it calls the deleter when it needs it no more.
struct SharedTensor {
  DLManagedTensor managed{};
  std::vector<int64_t> shape;
  Data data;

  static void release(DLManagedTensor* tensor) { delete static_cast<SharedTensor*>(tensor->manager_ctx); }
};

}  // namespace

TVMFFIAny tvm_integer(int64_t value) {
  TVMFFIAny any{};
  any.type_index = kTVMFFIInt;
  any.v_int64 = value;
  return any;
}

TVMFFIAny tvm_string(const char* value) {
  TVMFFIAny any{};
  any.type_index = kTVMFFIRawStr;
  any.v_c_str = value;
  return any;
}

TvmObject::TvmObject(const TvmObject& other) : functions_(other.functions_), handle_(other.handle_) {
  if (exists()) functions_->object_inc_ref(handle_);
}

TvmObject::TvmObject(TvmObject&& other) noexcept
    : functions_(other.functions_), handle_(std::exchange(other.handle_, nullptr)) {}

TvmObject& TvmObject::operator=(TvmObject other) noexcept {
  std::swap(functions_, other.functions_);
  std::swap(handle_, other.handle_);
  return *this;
}

TvmObject::~TvmObject() {
  if (exists()) functions_->object_dec_ref(handle_);
}

TVMFFIAny TvmObject::argument() const {
  TVMFFIAny any{};
  any.type_index = static_cast<const TVMFFIObject*>(handle_)->type_index;
  any.v_obj = static_cast<TVMFFIObject*>(handle_);
  return any;
}

const DLTensor& as_tensor(const TvmObject& object) { return cell_of<DLTensor>(object.handle()); }

bool has_form(const TvmObject& object, const TensorSpec& spec) {
  if (!object.exists() || object.argument().type_index != kTVMFFITensor) return false;
  const DLTensor& tensor = as_tensor(object);
  const DLDataType wanted = dlpack_type(spec.type);
  const bool is_type = tensor.dtype.code == wanted.code && tensor.dtype.bits == wanted.bits && tensor.dtype.lanes == 1;
  return is_type && tensor.ndim == static_cast<int32_t>(spec.shape.size()) &&
         std::equal(spec.shape.begin(), spec.shape.end(), tensor.shape);
}

Data data_of(const TvmObject& object) {
  const DLTensor& tensor = as_tensor(object);
  uint64_t bytes = (tensor.dtype.bits + 7) / 8;
  for (int32_t i = 0; i < tensor.ndim; ++i) bytes *= static_cast<uint64_t>(tensor.shape[i]);
  auto owner = std::make_shared<const TvmObject>(object);
  return {owner, static_cast<const char*>(tensor.data) + tensor.byte_offset, bytes};
}

TvmRuntime::TvmRuntime(const std::vector<std::string>& libraries) {
  if (libraries.empty()) throw Error("No TVM runtime is named.");
  functions_ = find_functions(open_library(libraries.front()));
  std::for_each(libraries.begin() + 1, libraries.end(), open_library);
  load_module_ = global("ffi.ModuleLoadFromFile");
  get_function_ = global("ffi.ModuleGetFunction");
  make_array_ = global("ffi.Array");
  array_size_ = global("ffi.ArraySize");
  array_item_ = global("ffi.ArrayGetItem");
  configure_pool_ = global("runtime.config_threadpool");
}

void TvmRuntime::check(int status) const {
  if (status == 0) return;
  void* handle = nullptr;
  functions_.error_move_from_raised(&handle);
  if (handle == nullptr) throw Error("TVM failed without a reason");
  const TvmObject error(&functions_, handle);
  const auto& cell = cell_of<TVMFFIErrorCell>(handle);
  const std::string kind = text_of(cell.kind), message = text_of(cell.message);
  if (message.find("bad_alloc") != std::string::npos) throw Error("there is no memory left");
  throw Error(kind + ": " + message.substr(0, message.find('\n')));
}

TvmObject TvmRuntime::global(const char* name) const {
  const std::string text(name);
  const TVMFFIByteArray bytes = {text.data(), text.size()};
  void* function = nullptr;
  check(functions_.function_get_global(&bytes, &function));
  if (function == nullptr) throw Error("The TVM runtime lacks the function " + text + "; it is of another version.");
  return {&functions_, function};
}

TVMFFIAny TvmRuntime::call(const TvmObject& function, const std::vector<TVMFFIAny>& arguments) const {
  TVMFFIAny result{};
  // TVM reads the arguments only; its interface does not say so.
  auto* first = const_cast<TVMFFIAny*>(arguments.data());
  check(functions_.function_call(function.handle(), first, static_cast<int32_t>(arguments.size()), &result));
  return result;
}

TvmObject TvmRuntime::call_for_object(const TvmObject& function, const std::vector<TVMFFIAny>& arguments) const {
  const TVMFFIAny result = call(function, arguments);
  if (result.type_index < kTVMFFIStaticObjectBegin) return {};
  return {&functions_, result.v_obj};
}

TvmObject TvmRuntime::load_library(const std::string& path) const {
  return call_for_object(load_module_, {tvm_string(path.c_str())});
}

TvmObject TvmRuntime::function(const TvmObject& module, const char* name, bool look_in_imports) const {
  TvmObject found = call_for_object(get_function_, {module.argument(), tvm_string(name), tvm_integer(look_in_imports)});
  if (!found.exists()) throw Error(std::string("it lacks the function ") + name);
  return found;
}

void TvmRuntime::configure_thread_pool(const std::vector<int>& cpu_ids, int threads) const {
  std::vector<std::string> texts;
  for (const int cpu : cpu_ids) texts.push_back(std::to_string(cpu));
  std::vector<TVMFFIAny> items;
  for (const std::string& text : texts) items.push_back(tvm_string(text.c_str()));
  const TvmObject ids = call_for_object(make_array_, items);
  const bool one_core_each = cpu_ids.size() == static_cast<size_t>(threads);
  const int64_t mode = one_core_each ? kOneCoreAThread : kThreadsShareCores;
  call(configure_pool_, {tvm_integer(mode), tvm_integer(threads), ids.argument()});
}

TvmObject TvmRuntime::tensor(const TensorSpec& spec, const Data& data) const {
  auto shared = std::make_unique<SharedTensor>();
  shared->shape = spec.shape;
  shared->data = data;
  DLTensor& tensor = shared->managed.dl_tensor;
  tensor.data = const_cast<void*>(data.begin);  // kernels do not write to what they take
  tensor.device = {kDLCPU, 0};
  tensor.ndim = static_cast<int32_t>(shared->shape.size());
  tensor.dtype = dlpack_type(spec.type);
  tensor.shape = shared->shape.data();
  shared->managed.manager_ctx = shared.get();
  shared->managed.deleter = SharedTensor::release;
  void* handle = nullptr;
  check(functions_.tensor_from_dlpack(&shared->managed, static_cast<int32_t>(kAlignmentBytes), 1, &handle));
  shared.release();  // TVM's now
  return {&functions_, handle};
}

std::vector<TvmObject> TvmRuntime::elements(const TvmObject& array) const {
  if (!array.exists()) return {};
  const int64_t size = call(array_size_, {array.argument()}).v_int64;
  std::vector<TvmObject> result;
  result.reserve(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i)
    result.push_back(call_for_object(array_item_, {array.argument(), tvm_integer(i)}));
  return result;
}

}  // namespace cospipe
