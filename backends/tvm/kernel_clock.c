/* Times every call that Relax's virtual machine makes, where the machine runs: here, or on a board behind TVM's RPC.
 *
 * A module for tvm_ffi. It registers a function by name, because functions of another machine cannot be handed to
 * set_instrument; and it gives numbers and names as text, because arrays do not cross RPC either:
 *
 *   register()       makes "cospipe.kernel_clock" known, whose result is the instrument
 *   start(notes)     forgets what was timed; notes = 1 keeps the names of what is called
 *   times()          nanoseconds of each call since start, separated by spaces; negative when another program took a
 *                    core away from this process meanwhile
 *   names()          what was called, a line each
 *   use_cores(list)  pins the calling thread and gives it a pool with one thread a core, "4 5 6 7"
 *   switches()       how often another program took a core away from this process
 *   read(file)       a small text file, empty when it cannot be read
 *   library(name)    the file that a loaded library comes from, empty when there is none of that name
 *   reference()      nanoseconds of a fixed piece of arithmetic on the core of the calling thread
 */
#define _GNU_SOURCE
#include <link.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <tvm/ffi/c_api.h>

enum { MOST_CALLS = 65536, NAMES_LENGTH = 4 << 20, MOST_CORES = 64, FILE_LENGTH = 1 << 16 };
enum { ONE_CORE_A_THREAD = -2, NUMBER_LENGTH = 21 };
enum { REFERENCE_STEPS = 1 << 20, REFERENCE_RUNS = 20 };

static int64_t times_ns[MOST_CALLS];
static int64_t calls, started_ns, switches_before;
static char names[NAMES_LENGTH];
static size_t names_length;
static int64_t notes_names;

static int fail(const char* what) {
  TVMFFIErrorSetRaisedFromCStr("RuntimeError", what);
  return -1;
}

static int return_text(const char* text, size_t length, TVMFFIAny* result) {
  TVMFFIByteArray bytes = {text, length};
  return TVMFFIStringFromByteArray(&bytes, result);
}

static void return_integer(int64_t value, TVMFFIAny* result) {
  *result = (TVMFFIAny){.type_index = kTVMFFIInt};
  result->v_int64 = value;
}

/* The forms a text argument comes in. */
static TVMFFIByteArray text_of(const TVMFFIAny* argument) {
  TVMFFIByteArray text = {"", 0};
  switch (argument->type_index) {
    case kTVMFFIRawStr:
      text = (TVMFFIByteArray){argument->v_c_str, strlen(argument->v_c_str)};
      break;
    case kTVMFFIByteArrayPtr:
      text = *(TVMFFIByteArray*)argument->v_ptr;
      break;
    case kTVMFFISmallStr:
      text = (TVMFFIByteArray){argument->v_bytes, argument->small_str_len};
      break;
    case kTVMFFIStr:
      text = *(TVMFFIByteArray*)((char*)argument->v_obj + sizeof(TVMFFIObject));
      break;
  }
  return text;
}

static int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int64_t switches(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

static void note(TVMFFIByteArray name) {
  if (names_length + name.size + 1 > NAMES_LENGTH) return;
  memcpy(names + names_length, name.data, name.size);
  names_length += name.size;
  names[names_length++] = '\n';
}

/* Called with the function, its name, whether it is about to run, its result, and its arguments. */
static int instrument(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self, (void)count;
  return_integer(0, result);
  if (arguments[2].v_int64) {
    switches_before = switches();
    started_ns = now_ns();
    return 0;
  }
  int64_t time_ns = now_ns() - started_ns;
  if (calls < MOST_CALLS) {
    times_ns[calls++] = switches() == switches_before ? time_ns : -time_ns;
    if (notes_names) note(text_of(&arguments[1]));
  }
  return 0;
}

static int make_instrument(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self, (void)arguments, (void)count;
  TVMFFIObjectHandle function = NULL;
  if (TVMFFIFunctionCreate(NULL, instrument, NULL, &function) != 0) return -1;
  *result = (TVMFFIAny){.type_index = kTVMFFIFunction};
  result->v_obj = (TVMFFIObject*)function;
  return 0;
}

TVM_FFI_DLL int __tvm_ffi_register(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self, (void)arguments, (void)count, (void)result;
  const char* name = "cospipe.kernel_clock";
  TVMFFIByteArray bytes = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  if (TVMFFIFunctionCreate(NULL, make_instrument, NULL, &function) != 0) return -1;
  int status = TVMFFIFunctionSetGlobal(&bytes, function, 1);
  TVMFFIObjectDecRef(function);
  return status;
}

TVM_FFI_DLL int __tvm_ffi_start(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self, (void)count, (void)result;
  calls = 0;
  names_length = 0;
  notes_names = arguments[0].v_int64;
  return 0;
}

TVM_FFI_DLL int __tvm_ffi_times(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self, (void)arguments, (void)count;
  char* text = malloc((size_t)calls * NUMBER_LENGTH + 1);
  if (text == NULL) return fail("out of memory");
  size_t length = 0;
  for (int64_t i = 0; i < calls; ++i) length += (size_t)sprintf(text + length, "%lld ", (long long)times_ns[i]);
  int status = return_text(text, length, result);
  free(text);
  return status;
}

TVM_FFI_DLL int __tvm_ffi_names(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self, (void)arguments, (void)count;
  return return_text(names, names_length, result);
}

TVM_FFI_DLL int __tvm_ffi_switches(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self, (void)arguments, (void)count;
  return_integer(switches(), result);
  return 0;
}

TVM_FFI_DLL int __tvm_ffi_read(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self, (void)count;
  TVMFFIByteArray path = text_of(&arguments[0]);
  char copy[4096] = "";
  if (path.size >= sizeof(copy)) return fail("the file's name is too long");
  memcpy(copy, path.data, path.size);
  FILE* file = fopen(copy, "rb");
  if (file == NULL) return return_text("", 0, result);
  char* text = malloc(FILE_LENGTH);
  size_t length = text == NULL ? 0 : fread(text, 1, FILE_LENGTH, file);
  fclose(file);
  int status = return_text(text, length, result);
  free(text);
  return status;
}

/* What is looked for among the loaded libraries, and the file that was found. */
struct wanted {
  const char* name;
  char file[4096];
};

static int note_library(struct dl_phdr_info* library, size_t size, void* data) {
  (void)size;
  struct wanted* wanted = data;
  const char* slash = strrchr(library->dlpi_name, '/');
  if (slash == NULL || strcmp(slash + 1, wanted->name) != 0) return 0;
  snprintf(wanted->file, sizeof(wanted->file), "%s", library->dlpi_name);
  return 1;
}

TVM_FFI_DLL int __tvm_ffi_library(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self, (void)count;
  TVMFFIByteArray name = text_of(&arguments[0]);
  char copy[256] = "";
  if (name.size >= sizeof(copy)) return fail("the library's name is too long");
  memcpy(copy, name.data, name.size);
  struct wanted wanted = {copy, ""};
  dl_iterate_phdr(note_library, &wanted);
  return return_text(wanted.file, strlen(wanted.file), result);
}

/* Each step waits for the one before, so that what counts is the clock of the core and not the compiler. */
static float arithmetic(void) {
  volatile float start = 1.0f;
  float value = start;
  for (int step = 0; step < REFERENCE_STEPS; ++step) value = value * 0.999f + 0.001f;
  return value;
}

/* Runs are shorter than a turn of the scheduler: the shortest was disturbed least. */
TVM_FFI_DLL int __tvm_ffi_reference(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self, (void)arguments, (void)count;
  int64_t shortest_ns = INT64_MAX;
  for (int run = 0; run < REFERENCE_RUNS; ++run) {
    int64_t before_ns = now_ns();
    volatile float value = arithmetic();
    int64_t time_ns = now_ns() - before_ns;
    (void)value;
    if (time_ns < shortest_ns) shortest_ns = time_ns;
  }
  return_integer(shortest_ns, result);
  return 0;
}

/* Calls a function of TVM by name. */
static int call_global(const char* name, TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  TVMFFIByteArray bytes = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  if (TVMFFIFunctionGetGlobal(&bytes, &function) != 0) return -1;
  if (function == NULL) return fail(name);
  int status = TVMFFIFunctionCall(function, arguments, count, result);
  TVMFFIObjectDecRef(function);
  return status;
}

static int pin(const int* cores, int count) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int i = 0; i < count; ++i) CPU_SET(cores[i], &set);
  return sched_setaffinity(0, sizeof(set), &set);
}

TVM_FFI_DLL int __tvm_ffi_use_cores(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  (void)self, (void)count;
  TVMFFIByteArray list = text_of(&arguments[0]);
  char text[1024] = "";
  if (list.size >= sizeof(text)) return fail("too many cores");
  memcpy(text, list.data, list.size);
  int cores[MOST_CORES], found = 0;
  TVMFFIAny words[MOST_CORES];
  for (char* word = strtok(text, " "); word != NULL && found < MOST_CORES; word = strtok(NULL, " ")) {
    cores[found] = atoi(word);
    words[found] = (TVMFFIAny){.type_index = kTVMFFIRawStr};
    words[found++].v_c_str = word;
  }
  if (pin(cores, found) != 0) return fail("these cores do not exist, or this process may not use them");
  TVMFFIAny array = {.type_index = kTVMFFINone};
  if (call_global("ffi.Array", words, found, &array) != 0) return -1;
  TVMFFIAny options[3] = {{.type_index = kTVMFFIInt}, {.type_index = kTVMFFIInt}, array};
  options[0].v_int64 = ONE_CORE_A_THREAD;
  options[1].v_int64 = found;
  int status = call_global("runtime.config_threadpool", options, 3, result);
  TVMFFIObjectDecRef(array.v_obj);
  return status != 0 ? status : pin(cores, 1);
}
