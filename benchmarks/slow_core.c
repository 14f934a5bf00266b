/* Makes one core of this machine a slow one for the kernels of compiled stages: it does their work again and again.
 *
 * Whatever part of a kernel runs on the slow core is repeated until it took as many times its own time as asked for.
 * It cannot be repeated by halves, so what is too much or too little is made up for by the next ones. A part writes
 * what it wrote before, and memory and vector units are as busy as those of a slow core that computes all the time.
 *
 * A stage of one thread calls its kernels one by one: `instrument` is for its virtual machine. Kernels for several
 * threads start them with TVMBackendParallelLaunch, which a library calls through a pointer that the runtime sets when
 * it loads the library: `slow_threads` puts a function in between.
 *
 * `steal_time` is for programs whose work cannot be repeated: a thread that comes before all others takes a part of
 * every half millisecond away from whatever runs on the core.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <tvm/ffi/c_api.h>
#include <tvm/runtime/c_backend_api.h>

typedef int (*Launch)(FTVMParallelLambda, void*, int);
typedef int (*Work)(void*);

enum { GO_ON = 0, WAS_RUN = 1, FIRST_ARGUMENT = 4 }; /* of instruments */

static int slow_core = -1;
static double times = 1.0;
static _Thread_local double owed_ns;

/* The core is the one of this number, and takes so many times as long; -1 for none. */
void slow_down(int core, double how_many_times) {
  slow_core = core;
  times = how_many_times;
}

static double now_ns(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return time.tv_sec * 1e9 + time.tv_nsec;
}

/* Computing time counts, so that programs that take the core away meanwhile do not make it slower still. */
static int repeat(Work work, void* data) {
  double started_ns = now_ns(CLOCK_THREAD_CPUTIME_ID);
  int status = work(data);
  double ended_ns = now_ns(CLOCK_THREAD_CPUTIME_ID), own_ns = ended_ns - started_ns;
  owed_ns += (times - 1) * own_ns;
  while (status == 0 && owed_ns > own_ns / 2) {
    started_ns = ended_ns;
    status = work(data);
    ended_ns = now_ns(CLOCK_THREAD_CPUTIME_ID);
    owed_ns -= ended_ns - started_ns;
  }
  return status;
}

typedef struct {
  const TVMFFIAny* arguments;
  int32_t count;
} Call;

static int call_kernel(void* data) {
  Call* call = data;
  TVMFFIAny result = {.type_index = kTVMFFINone};
  return TVMFFIFunctionCall(call->arguments[0].v_obj, (TVMFFIAny*)call->arguments + FIRST_ARGUMENT,
                            call->count - FIRST_ARGUMENT, &result);
}

/* Names of the virtual machine's own functions have dots, those of kernels have none. */
static int is_kernel(const TVMFFIAny* name) {
  switch (name->type_index) {
    case kTVMFFIRawStr:
      return strchr(name->v_c_str, '.') == NULL;
    case kTVMFFIByteArrayPtr: {
      TVMFFIByteArray* bytes = name->v_ptr;
      return memchr(bytes->data, '.', bytes->size) == NULL;
    }
    case kTVMFFISmallStr:
      return memchr(name->v_bytes, '.', name->small_str_len) == NULL;
    case kTVMFFIStr: {
      TVMFFIByteArray* bytes = (TVMFFIByteArray*)((char*)name->v_obj + sizeof(TVMFFIObject));
      return memchr(bytes->data, '.', bytes->size) == NULL;
    }
  }
  return 0;
}

/* Is called before and after each call with the function, its name, whether it is before, the result, the arguments. */
int __tvm_ffi_instrument(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  Call call = {arguments, count};
  *result = (TVMFFIAny){.type_index = kTVMFFIInt};
  result->v_int64 = GO_ON;
  int is_before = arguments[2].v_int64 != 0;
  if (!is_before || sched_getcpu() != slow_core || !is_kernel(&arguments[1])) return 0;
  result->v_int64 = WAS_RUN;
  return repeat(call_kernel, &call);
}

static Launch launch, launch_by_speed;

typedef struct {
  FTVMParallelLambda lambda;
  void* data;
  int task;
  TVMParallelGroupEnv* environment;
} Part;

static int run_part(void* data) {
  Part* part = data;
  return part->lambda(part->task, part->environment, part->data);
}

static int run_part_here(int task, TVMParallelGroupEnv* environment, void* data) {
  Part part = *(Part*)data;
  part.task = task;
  part.environment = environment;
  return sched_getcpu() == slow_core ? repeat(run_part, &part) : run_part(&part);
}

static int slow_launch(FTVMParallelLambda lambda, void* data, int tasks) {
  Part part = {lambda, data, 0, NULL};
  return launch(run_part_here, &part, tasks);
}

static int slow_launch_by_speed(FTVMParallelLambda lambda, void* data, int tasks) {
  Part part = {lambda, data, 0, NULL};
  return launch_by_speed(run_part_here, &part, tasks);
}

/* `pointer` is where a library has __TVMBackendParallelLaunch. One whose threads share kernels by speed has a function
 * of its own there, which calls the one of the runtime; of such libraries the latest one is slowed down. */
void slow_threads(Launch* pointer, int shares_by_speed) {
  Launch slow = shares_by_speed ? slow_launch_by_speed : slow_launch;
  if (*pointer == slow) return;
  if (shares_by_speed) {
    launch_by_speed = *pointer;
  } else {
    launch = *pointer;
  }
  *pointer = slow;
}

enum { TURN_NS = 500000 };

static atomic_int stealing;
static pthread_t thief;
static double stolen_share;

static void* steal(void* unused) {
  (void)unused;
  double turn_ns = now_ns(CLOCK_MONOTONIC);
  while (atomic_load(&stealing)) {
    while (now_ns(CLOCK_MONOTONIC) < turn_ns + stolen_share * TURN_NS) continue;
    turn_ns += TURN_NS;
    struct timespec next = {.tv_sec = (time_t)(turn_ns / 1e9)};
    next.tv_nsec = (long)(turn_ns - next.tv_sec * 1e9);
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
  }
  return NULL;
}

/* Takes a share of a core's time away until stop_stealing; returns 0, or an error number, EPERM where not permitted. */
int steal_time(int core, double share) {
  pthread_attr_t attributes;
  struct sched_param priority = {.sched_priority = 1};
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(core, &cores);
  pthread_attr_init(&attributes);
  pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
  pthread_attr_setschedpolicy(&attributes, SCHED_FIFO);
  pthread_attr_setschedparam(&attributes, &priority);
  pthread_attr_setaffinity_np(&attributes, sizeof(cores), &cores);
  stolen_share = share;
  atomic_store(&stealing, 1);
  return pthread_create(&thief, &attributes, steal, NULL);
}

void stop_stealing(void) {
  atomic_store(&stealing, 0);
  pthread_join(thief, NULL);
}
