// The TVM runtime through tvm_ffi's C interface: an error that crossed tvm_ffi's C++ layer could meet another C++ library.
//
// Both libraries are opened with dlopen when a bundle has passed its checks, so nothing of an unchecked one is loaded.
#pragma once

#include <string>
#include <vector>

#include <tvm/ffi/c_api.h>

#include "tensor.h"

namespace cospipe {

// The functions of libtvm_ffi.so that are used.
struct TvmFunctions {
  decltype(&TVMFFIObjectIncRef) object_inc_ref = nullptr;
  decltype(&TVMFFIObjectDecRef) object_dec_ref = nullptr;
  decltype(&TVMFFIErrorMoveFromRaised) error_move_from_raised = nullptr;
  decltype(&TVMFFIFunctionGetGlobal) function_get_global = nullptr;
  decltype(&TVMFFIFunctionCall) function_call = nullptr;
  decltype(&TVMFFITensorFromDLPack) tensor_from_dlpack = nullptr;
};

// Shares one of TVM's reference-counted objects: a function, a module, a tensor, an array. The runtime outlives it.
class TvmObject {
 public:
  TvmObject() = default;
  // Takes over a reference.
  TvmObject(const TvmFunctions* functions, void* handle) : functions_(functions), handle_(handle) {}
  TvmObject(const TvmObject& other);
  TvmObject(TvmObject&& other) noexcept;
  TvmObject& operator=(TvmObject other) noexcept;
  ~TvmObject();

  bool exists() const { return handle_ != nullptr; }
  void* handle() const { return handle_; }
  TVMFFIAny argument() const;

 private:
  const TvmFunctions* functions_ = nullptr;
  void* handle_ = nullptr;
};

// A tensor's description, and its numbers, which live as long as the object does.
const DLTensor& as_tensor(const TvmObject& object);
bool has_form(const TvmObject& object, const TensorSpec& spec);
Data data_of(const TvmObject& object);

class TvmRuntime {
 public:
  // Opens the libraries in order; libtvm_ffi.so comes first. Throws Error when one is missing or not what it should be.
  explicit TvmRuntime(const std::vector<std::string>& libraries);

  TvmObject load_library(const std::string& path) const;
  // A function of a module. Throws Error when there is none of that name.
  TvmObject function(const TvmObject& module, const char* name, bool look_in_imports = false) const;
  // Gives the calling thread a pool of its own, before its first kernel: a core a thread when there are as many, else
  // all threads share the cores.
  void configure_thread_pool(const std::vector<int>& cpu_ids, int threads) const;
  // A tensor that shares the numbers, which lie at a 64-byte boundary.
  TvmObject tensor(const TensorSpec& spec, const Data& data) const;

  // Calls a function; throws Error with TVM's own words when it fails.
  TVMFFIAny call(const TvmObject& function, const std::vector<TVMFFIAny>& arguments) const;
  // The same for functions that return an object.
  TvmObject call_for_object(const TvmObject& function, const std::vector<TVMFFIAny>& arguments) const;
  // The elements of an array.
  std::vector<TvmObject> elements(const TvmObject& array) const;

 private:
  TvmObject global(const char* name) const;
  void check(int status) const;

  TvmFunctions functions_;
  TvmObject load_module_, get_function_, make_array_, array_size_, array_item_, configure_pool_;
};

TVMFFIAny tvm_integer(int64_t value);
TVMFFIAny tvm_string(const char* value);

}  // namespace cospipe
