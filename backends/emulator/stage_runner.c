/* Calls one compiled stage once, with tensors that lie in files, through the C interface of tvm_ffi.
 *
 *   stage_runner RUNTIME LIBRARY ARGUMENTS OUTPUT THREADS
 *
 * RUNTIME    libtvm_runtime.so
 * LIBRARY    the stage, an absolute path
 * ARGUMENTS  text, what main takes, in order; a tensor that lies in a file:
 *              tensor FILE OFFSET DLPACK_CODE BITS NDIM EXTENT...
 *            or one that a function of the stage prepares from the COUNT tensors on the lines that follow:
 *              prepared FUNCTION COUNT DLPACK_CODE BITS NDIM EXTENT...
 * OUTPUT     file the results are written to, one tensor behind the other
 * THREADS    size of TVM's thread pool
 *
 * With COSPIPE_MARKED_RUN set the stage is called once more, between two marks that a QEMU plugin can see.
 *
 * Only the C interface is used: an error that reached tvm_ffi's C++ layer would cross two C++ libraries.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <tvm/ffi/c_api.h>

enum { MAX_DIMENSIONS = 16, MAX_ARGUMENTS = 65536, ALIGNMENT = 64, PATH_LENGTH = 4096 };
enum { ONE_CORE_A_THREAD = -2, CPU = 1, NAIVE = 1, POOLED = 2 };
enum { MARK = 0x636f73, END = 0, BEGIN = 1 };

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

static void release(DLManagedTensor* tensor) {
  free(tensor->dl_tensor.data);
  free(tensor->dl_tensor.shape);
  free(tensor);
}

/* Takes over the memory of the data and of the shape. */
static TVMFFIAny tensor(void* data, DLDataType type, int32_t dimensions, int64_t* shape) {
  DLManagedTensor* managed = calloc(1, sizeof(DLManagedTensor));
  if (managed == NULL) fail("out of memory", "tensor");
  managed->dl_tensor =
      (DLTensor){.data = data, .device = {kDLCPU, 0}, .ndim = dimensions, .dtype = type, .shape = shape};
  managed->dl_tensor.strides = NULL;
  managed->deleter = release;
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

typedef struct {
  DLDataType type;
  int32_t dimensions;
  int64_t* shape;
  size_t bytes;
} Description;

/* Reads DLPACK_CODE BITS NDIM EXTENT... */
static Description read_description(FILE* list, const char* what) {
  int code, bits, dimensions;
  if (fscanf(list, "%d %d %d", &code, &bits, &dimensions) != 3) fail("bad line", what);
  if (dimensions < 0 || dimensions > MAX_DIMENSIONS) fail("too many dimensions", what);
  Description description = {{(uint8_t)code, (uint8_t)bits, 1}, dimensions, NULL, (size_t)(bits + 7) / 8};
  description.shape = calloc(MAX_DIMENSIONS, sizeof(int64_t));
  if (description.shape == NULL) fail("out of memory", what);
  for (int i = 0; i < dimensions; ++i) {
    long long extent;
    if (fscanf(list, "%lld", &extent) != 1 || extent < 0) fail("bad shape", what);
    description.shape[i] = extent;
    description.bytes *= (size_t)extent;
  }
  return description;
}

/* Reads a line of the arguments behind the word "tensor", and the tensor itself. */
static TVMFFIAny read_tensor(FILE* list) {
  char path[PATH_LENGTH];
  long long offset;
  if (fscanf(list, "%4095s %lld", path, &offset) != 2) fail("bad line", "tensor");
  Description found = read_description(list, path);
  return tensor(read_aligned(path, offset, found.bytes), found.type, found.dimensions, found.shape);
}

/* main does not look at the shapes of its weights: another one would be read beyond its end. */
static void check_fits(TVMFFIAny prepared, Description expected, const char* name) {
  DLTensor* found = (DLTensor*)((char*)prepared.v_obj + sizeof(TVMFFIObject));
  size_t shape_bytes = (size_t)expected.dimensions * sizeof(int64_t);
  int same_type = found->dtype.code == expected.type.code && found->dtype.bits == expected.type.bits;
  if (!same_type || found->ndim != expected.dimensions || memcmp(found->shape, expected.shape, shape_bytes) != 0)
    fail("a function prepares a tensor of another shape or type than main takes", name);
}

/* Calls a function that prepares one tensor; what it is made from is released. */
static TVMFFIAny prepare(FILE* list, TVMFFIAny machine) {
  char name[PATH_LENGTH], word[16];
  int count;
  if (fscanf(list, "%4095s %d", name, &count) != 2 || count < 0 || count > MAX_ARGUMENTS) fail("bad line", "prepared");
  Description expected = read_description(list, name);
  TVMFFIAny* stored = calloc((size_t)count + 1, sizeof(TVMFFIAny));
  if (stored == NULL) fail("out of memory", name);
  for (int i = 0; i < count; ++i) {
    if (fscanf(list, "%15s", word) != 1 || strcmp(word, "tensor") != 0) fail("a tensor is missing", name);
    stored[i] = read_tensor(list);
  }
  TVMFFIAny results = call(method(machine, name).v_obj, stored, count, name);
  TVMFFIAny first[] = {results, integer(0)};
  TVMFFIAny prepared = call(global("ffi.ArrayGetItem"), first, 2, "ffi.ArrayGetItem");
  check_fits(prepared, expected, name);
  check(TVMFFIObjectDecRef(results.v_obj), name);
  for (int i = 0; i < count; ++i) check(TVMFFIObjectDecRef(stored[i].v_obj), name);
  free(stored);
  free(expected.shape);
  return prepared;
}

/* Reads one argument of main; returns 0 behind the last. */
static int read_argument(FILE* list, TVMFFIAny machine, TVMFFIAny* argument) {
  char word[16];
  if (fscanf(list, "%15s", word) != 1) return 0;
  if (strcmp(word, "tensor") == 0) {
    *argument = read_tensor(list);
  } else if (strcmp(word, "prepared") == 0) {
    *argument = prepare(list, machine);
  } else {
    fail("neither a tensor nor a prepared one", word);
  }
  return 1;
}

static TVMFFIAny load_library(const char* library) {
  TVMFFIAny path = string(library);
  return call(global("ffi.ModuleLoadFromFile"), &path, 1, library);
}

/* A virtual machine of the library. Memory for steps in between stays in a pool, or goes back to the system (NAIVE). */
static TVMFFIAny start_machine(TVMFFIAny library, int allocator) {
  TVMFFIAny load = method(library, "vm_load_executable");
  TVMFFIAny machine = call(load.v_obj, NULL, 0, "vm_load_executable");
  TVMFFIAny device[] = {integer(CPU), integer(0), integer(allocator), integer(CPU), integer(0), integer(allocator)};
  call(method(machine, "vm_initialization").v_obj, device, 6, "vm_initialization");
  return machine;
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

/* A system call that fails without effect; instruction_counter.c knows its arguments. */
static void mark(int what) { (void)getpriority((__priority_which_t)MARK, (id_t)what); }

static TVMFFIAny run(TVMFFIAny stage, TVMFFIAny* arguments, int32_t count) {
  TVMFFIAny results = call(stage.v_obj, arguments, count, "main");
  if (getenv("COSPIPE_MARKED_RUN") == NULL) return results;
  TVMFFIObjectDecRef(results.v_obj);
  mark(BEGIN);
  results = call(stage.v_obj, arguments, count, "main");
  mark(END);
  return results;
}

int main(int argc, char** argv) {
  if (argc != 6) fail("usage", "stage_runner RUNTIME LIBRARY ARGUMENTS OUTPUT THREADS");
  if (dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) == NULL) fail("cannot load the TVM runtime", dlerror());
  configure_threads(atoi(argv[5]));
  TVMFFIAny library = load_library(argv[2]);
  TVMFFIAny preparing = start_machine(library, NAIVE);
  TVMFFIAny stage = method(start_machine(library, POOLED), "main");
  FILE* list = fopen(argv[3], "r");
  if (list == NULL) fail("cannot open", argv[3]);
  TVMFFIAny* arguments = calloc(MAX_ARGUMENTS, sizeof(TVMFFIAny));
  int32_t count = 0;
  while (count < MAX_ARGUMENTS && read_argument(list, preparing, &arguments[count])) ++count;
  if (!feof(list)) fail("bad argument list", argv[3]);
  write_results(run(stage, arguments, count), argv[4]);
  fflush(NULL);
  _exit(0); /* worker threads of the pool are still waiting; nothing is left to release in order */
}
