/* Lets the threads of a kernel take parts of it as they can, so that fast cores do more of it than slow ones.
 *
 * TVM's runtime gives every thread one part of a parallel loop, all of the same size, and waits for the slowest. This
 * is linked into the library of a stage for cores of several types. The library starts parallel loops through the
 * pointer __TVMBackendParallelLaunch, which the runtime sets when it loads the library; share_by_speed, called once
 * after that, puts a function in between: the loop is cut into many parts, and each thread takes the next one whenever
 * it is done with the last.
 */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { PARTS_A_THREAD = 16 };

typedef struct {
  void* sync_handle;
  int32_t num_task;
} Environment; /* TVMParallelGroupEnv */

typedef int (*Lambda)(int task, Environment* environment, void* data);
typedef int (*Launch)(Lambda lambda, void* data, int tasks);

/* Not there when no kernel of the library is worth several threads. */
extern Launch __TVMBackendParallelLaunch __attribute__((weak));

static Launch equal_parts;

typedef struct {
  Lambda lambda;
  void* data;
  atomic_int next;
} Loop;

static int take_parts(int thread, Environment* environment, void* data) {
  (void)thread;
  Loop* loop = data;
  Environment parts = {environment->sync_handle, PARTS_A_THREAD * environment->num_task};
  for (;;) {
    int part = atomic_fetch_add_explicit(&loop->next, 1, memory_order_relaxed);
    if (part >= parts.num_task) return 0;
    int status = loop->lambda(part, &parts, loop->data);
    if (status != 0) return status;
  }
}

static int launch_by_speed(Lambda lambda, void* data, int tasks) {
  Loop loop = {lambda, data, 0};
  return equal_parts(take_parts, &loop, tasks);
}

/* A function for tvm_ffi; calling it again changes nothing. */
int __tvm_ffi_share_by_speed(void* self, const void* arguments, int32_t count, void* result) {
  (void)self, (void)arguments, (void)count, (void)result;
  if (&__TVMBackendParallelLaunch == NULL || __TVMBackendParallelLaunch == launch_by_speed) return 0;
  equal_parts = __TVMBackendParallelLaunch;
  __TVMBackendParallelLaunch = launch_by_speed;
  return 0;
}
