/* Calls one compiled stage once, with tensors that lie in files, through the C interface of tvm_ffi.
 *
 *   stage_runner RUNTIME LIBRARY ARGUMENTS OUTPUT THREADS
 *
 * RUNTIME    libtvm_runtime.so
 * LIBRARY    the stage, an absolute path
 * ARGUMENTS  text, one tensor a line: FILE OFFSET DLPACK_CODE BITS NDIM EXTENT...
 * OUTPUT     file the results are written to, one tensor behind the other
 * THREADS    size of TVM's thread pool
 *
 * Only the C interface is used: an error that reached tvm_ffi's C++ layer would cross two C++ libraries.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <tvm/ffi/c_api.h>

enum { MAX_DIMENSIONS = 16, MAX_ARGUMENTS = 65536, ALIGNMENT = 64, PATH_LENGTH = 4096 };
enum { ONE_CORE_A_THREAD = -2, CPU = 1, POOLED = 2 };

static void fail(const char* what, const char* detail) {
  fprintf(stderr, "stage_runner: %s: %s\n", what, detail);
  exit(1);
}

/* Ends the program with TVM's own message when a call into it failed. */
static void check(int status, const char* what) {
  if (status == 0) return;
  TVMFFIObjectHandle error = NULL;
  TVMFFIErrorMoveFromRaised(&error);
  if (error == NULL) fail(what, "unknown error");
  TVMFFIErrorCell* cell = (TVMFFIErrorCell*)((char*)error + sizeof(TVMFFIObject));
  fprintf(stderr, "stage_runner: %s: %.*s: %.*s\n", what, (int)cell->kind.size, cell->kind.data,
          (int)cell->message.size, cell->message.data);
  exit(1);
}

static TVMFFIAny integer(int64_t value) {
  TVMFFIAny any = {.type_index = kTVMFFIInt};
  any.v_int64 = value;
  return any;
}

static TVMFFIAny string(const char* value) {
  TVMFFIAny any = {.type_index = kTVMFFIRawStr};
  any.v_c_str = value;
  return any;
}

static TVMFFIAny object(TVMFFIObjectHandle handle, int32_t type_index) {
  TVMFFIAny any = {.type_index = type_index};
  any.v_obj = (TVMFFIObject*)handle;
  return any;
}

static TVMFFIAny call(TVMFFIObjectHandle function, TVMFFIAny* arguments, int32_t count, const char* what) {
  TVMFFIAny result = {.type_index = kTVMFFINone};
  check(TVMFFIFunctionCall(function, arguments, count, &result), what);
  return result;
}

static TVMFFIObjectHandle global(const char* name) {
  TVMFFIByteArray bytes = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  check(TVMFFIFunctionGetGlobal(&bytes, &function), name);
  if (function == NULL) fail("the TVM runtime lacks a function", name);
  return function;
}

static TVMFFIAny method(TVMFFIAny module, const char* name) {
  TVMFFIAny arguments[] = {module, string(name), integer(0)};
  TVMFFIAny function = call(global("ffi.ModuleGetFunction"), arguments, 3, name);
  if (function.type_index != kTVMFFIFunction) fail("the library lacks a function", name);
  return function;
}

/* Nothing is released before the program ends; the tensor's memory is the program's. */
static void keep(DLManagedTensor* tensor) { (void)tensor; }

static TVMFFIAny tensor(void* data, DLDataType type, int32_t dimensions, int64_t* shape) {
  DLManagedTensor* managed = calloc(1, sizeof(DLManagedTensor));
  if (managed == NULL) fail("out of memory", "tensor");
  managed->dl_tensor =
      (DLTensor){.data = data, .device = {kDLCPU, 0}, .ndim = dimensions, .dtype = type, .shape = shape};
  managed->dl_tensor.strides = NULL;
  managed->deleter = keep;
  TVMFFIObjectHandle handle = NULL;
  check(TVMFFITensorFromDLPack(managed, ALIGNMENT, 1, &handle), "tensor");
  return object(handle, kTVMFFITensor);
}

static void* read_aligned(const char* path, int64_t offset, size_t bytes) {
  void* memory = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT);
  FILE* file = fopen(path, "rb");
  if (memory == NULL || file == NULL) fail("cannot open", path);
  if (fseek(file, offset, SEEK_SET) != 0 || fread(memory, 1, bytes, file) != bytes) fail("cannot read", path);
  fclose(file);
  return memory;
}

/* Reads one line of the arguments; returns 0 behind the last. */
static int read_argument(FILE* list, TVMFFIAny* argument) {
  char path[PATH_LENGTH];
  long long offset;
  int code, bits, dimensions;
  if (fscanf(list, "%4095s %lld %d %d %d", path, &offset, &code, &bits, &dimensions) != 5) return 0;
  if (dimensions < 0 || dimensions > MAX_DIMENSIONS) fail("too many dimensions", path);
  int64_t* shape = calloc(MAX_DIMENSIONS, sizeof(int64_t));
  size_t bytes = (size_t)(bits + 7) / 8;
  for (int i = 0; i < dimensions; ++i) {
    long long extent;
    if (fscanf(list, "%lld", &extent) != 1 || extent < 0) fail("bad shape", path);
    shape[i] = extent;
    bytes *= (size_t)extent;
  }
  DLDataType type = {.code = (uint8_t)code, .bits = (uint8_t)bits, .lanes = 1};
  *argument = tensor(read_aligned(path, offset, bytes), type, dimensions, shape);
  return 1;
}

static TVMFFIAny load_stage(const char* library) {
  TVMFFIAny path = string(library);
  TVMFFIAny module = call(global("ffi.ModuleLoadFromFile"), &path, 1, library);
  TVMFFIAny load = method(module, "vm_load_executable");
  TVMFFIAny machine = call(load.v_obj, NULL, 0, "vm_load_executable");
  TVMFFIAny device[] = {integer(CPU), integer(0), integer(POOLED), integer(CPU), integer(0), integer(POOLED)};
  call(method(machine, "vm_initialization").v_obj, device, 6, "vm_initialization");
  return method(machine, "main");
}

static void configure_threads(int threads) {
  TVMFFIAny ids[256];
  static char text[256][8];
  if (threads < 1 || threads > 256) fail("threads", "must be 1 to 256");
  for (int i = 0; i < threads; ++i) {
    snprintf(text[i], sizeof(text[i]), "%d", i);
    ids[i] = string(text[i]);
  }
  TVMFFIAny list = call(global("ffi.Array"), ids, threads, "ffi.Array");
  TVMFFIAny arguments[] = {integer(ONE_CORE_A_THREAD), integer(threads), list};
  call(global("runtime.config_threadpool"), arguments, 3, "runtime.config_threadpool");
}

static void write_results(TVMFFIAny results, const char* path) {
  FILE* file = fopen(path, "wb");
  if (file == NULL) fail("cannot write", path);
  TVMFFIAny size = call(global("ffi.ArraySize"), &results, 1, "ffi.ArraySize");
  for (int64_t i = 0; i < size.v_int64; ++i) {
    TVMFFIAny arguments[] = {results, integer(i)};
    TVMFFIAny item = call(global("ffi.ArrayGetItem"), arguments, 2, "ffi.ArrayGetItem");
    DLTensor* result = (DLTensor*)((char*)item.v_obj + sizeof(TVMFFIObject));
    size_t bytes = (size_t)(result->dtype.bits + 7) / 8;
    for (int32_t d = 0; d < result->ndim; ++d) bytes *= (size_t)result->shape[d];
    if (fwrite((char*)result->data + result->byte_offset, 1, bytes, file) != bytes) fail("cannot write", path);
  }
  if (fclose(file) != 0) fail("cannot write", path);
}

int main(int argc, char** argv) {
  if (argc != 6) fail("usage", "stage_runner RUNTIME LIBRARY ARGUMENTS OUTPUT THREADS");
  if (dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) == NULL) fail("cannot load the TVM runtime", dlerror());
  configure_threads(atoi(argv[5]));
  TVMFFIAny stage = load_stage(argv[2]);
  FILE* list = fopen(argv[3], "r");
  if (list == NULL) fail("cannot open", argv[3]);
  TVMFFIAny* arguments = calloc(MAX_ARGUMENTS, sizeof(TVMFFIAny));
  int32_t count = 0;
  while (count < MAX_ARGUMENTS && read_argument(list, &arguments[count])) ++count;
  if (!feof(list)) fail("bad argument list", argv[3]);
  write_results(call(stage.v_obj, arguments, count, "main"), argv[4]);
  fflush(NULL);
  _exit(0); /* worker threads of the pool are still waiting; nothing is left to release in order */
}
