/* QEMU plugin: counts the AArch64 instructions that each thread executes between two marks.
 *
 *   qemu-aarch64 -plugin instruction_counter.so,report=FILE PROGRAM ...
 *
 * The emulated program sets its marks with system calls that fail without effect: getpriority(MARK, 1) begins,
 * getpriority(MARK, 0) ends and writes the report. QEMU translates code in blocks that run from their first
 * instruction to their last, so counting how often each block runs counts every instruction.
 *
 * Report, one block a line, behind them the lines of /proc/self/maps:
 *   marked THREAD
 *   block CODE INSTRUCTIONS FMA LOADS STORES THREAD EXECUTIONS [THREAD EXECUTIONS]...
 * The first line tells which thread set the marks; threads are numbered as they were started. CODE is where the block's
 * first instruction lies in this process; the four numbers behind it are what one execution of the block counts.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The part of QEMU's documented plugin interface that is used; it is the same in every version since 6.0. */
typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
typedef void (*translation_callback)(qemu_plugin_id_t, struct qemu_plugin_tb*);
typedef void (*execution_callback)(unsigned int thread, void* data);
typedef void (*syscall_callback)(qemu_plugin_id_t, unsigned int thread, int64_t number, uint64_t a1, uint64_t a2,
                                 uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translation_callback);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_callback);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb*, execution_callback, enum qemu_plugin_cb_flags,
                                          void* data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t index);
void* qemu_plugin_insn_haddr(const struct qemu_plugin_insn*);

#ifndef PLUGIN_API
#define PLUGIN_API 1
#endif
#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = PLUGIN_API;

enum { GETPRIORITY = 141, MARK = 0x636f73, MAX_THREADS = 64 };

typedef struct Block {
  struct Block* next;
  const void* code;
  uint32_t instructions, fma, loads, stores;
  uint64_t executions[MAX_THREADS];
} Block;

static Block* blocks;
static bool is_counting;
static const char* report_path;

/* Fused multiply-adds of the A64 instruction set: fmadd and its kin, fmla and fmls by vector and by element. */
static bool is_fma(uint32_t word) {
  return (word & 0x5f000000) == 0x1f000000 ||                                    /* scalar, three sources */
         (word & 0xbf20fc00) == 0x0e20cc00 || (word & 0xbf60fc00) == 0x0e400c00 || /* vector; in half precision */
         (word & 0xbf00b400) == 0x0f001000 || (word & 0xff00b400) == 0x5f001000;   /* by element; scalar */
}

enum Access { NONE, LOAD, STORE };

static enum Access by_load_bit(uint32_t word) { return word >> 22 & 1 ? LOAD : STORE; }

/* One register and an address: integer registers have several kinds of loads, size 3 kind 2 is a prefetch. */
static enum Access single_register(uint32_t word) {
  bool is_vector = word >> 26 & 1;
  uint32_t size = word >> 30, kind = word >> 22 & 3;
  bool is_atomic = (word & 0x01200c00) == 0x00200000;
  if (is_atomic) return LOAD;
  if (is_vector) return by_load_bit(word);
  if (size == 3 && kind == 2) return NONE;
  return kind == 0 ? STORE : LOAD;
}

/* What an instruction does to memory; a pair or a structure of registers is one load or store. */
static enum Access memory_access(uint32_t word) {
  if ((word & 0x3b000000) == 0x18000000) return word >> 30 == 3 && !(word >> 26 & 1) ? NONE : LOAD; /* literal */
  if ((word & 0x3f000000) == 0x19000000) return word >> 22 & 3 ? LOAD : STORE; /* acquire, release, with offset */
  if ((word & 0x3f000000) == 0x08000000) return by_load_bit(word);             /* exclusive, acquire, release */
  if ((word & 0x3a000000) == 0x28000000) return by_load_bit(word);             /* pair */
  if ((word & 0xbe000000) == 0x0c000000) return by_load_bit(word);             /* vector structures: ld1, st4 */
  if ((word & 0x3a000000) == 0x38000000) return single_register(word);
  return NONE;
}

/* A counter belongs to one thread, so no increment is lost. */
static void count_execution(unsigned int thread, void* data) {
  if (!__atomic_load_n(&is_counting, __ATOMIC_RELAXED)) return;
  if (thread >= MAX_THREADS) {
    fprintf(stderr, "instruction_counter: only %d threads can be counted\n", MAX_THREADS);
    abort();
  }
  ++((Block*)data)->executions[thread];
}

static void classify(Block* block, const void* code) {
  uint32_t word;
  memcpy(&word, code, sizeof(word));
  enum Access access = memory_access(word);
  ++block->instructions;
  block->fma += is_fma(word);
  block->loads += access == LOAD;
  block->stores += access == STORE;
}

static void remember(Block* block) {
  block->next = __atomic_load_n(&blocks, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(&blocks, &block->next, block, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
  }
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* code) {
  (void)id;
  Block* block = calloc(1, sizeof(Block));
  if (block == NULL) abort();
  size_t size = qemu_plugin_tb_n_insns(code);
  for (size_t i = 0; i < size; ++i) classify(block, qemu_plugin_insn_haddr(qemu_plugin_tb_get_insn(code, i)));
  block->code = qemu_plugin_insn_haddr(qemu_plugin_tb_get_insn(code, 0));
  remember(block);
  qemu_plugin_register_vcpu_tb_exec_cb(code, count_execution, QEMU_PLUGIN_CB_NO_REGS, block);
}

static void begin(void) {
  for (Block* block = __atomic_load_n(&blocks, __ATOMIC_ACQUIRE); block != NULL; block = block->next) {
    memset(block->executions, 0, sizeof(block->executions));
  }
  __atomic_store_n(&is_counting, true, __ATOMIC_SEQ_CST);
}

static void copy_memory_map(FILE* report) {
  char line[8192];
  FILE* maps = fopen("/proc/self/maps", "r");
  while (maps != NULL && fgets(line, sizeof(line), maps) != NULL) fputs(line, report);
  if (maps != NULL) fclose(maps);
}

static void write_block(FILE* report, const Block* block) {
  bool is_new = true;
  for (unsigned int thread = 0; thread < MAX_THREADS; ++thread) {
    unsigned long long executions = block->executions[thread];
    if (executions == 0) continue;
    if (is_new) {
      fprintf(report, "block %p %u %u %u %u", block->code, block->instructions, block->fma, block->loads,
              block->stores);
    }
    is_new = false;
    fprintf(report, " %u %llu", thread, executions);
  }
  if (!is_new) fputc('\n', report);
}

static void end(unsigned int thread) {
  __atomic_store_n(&is_counting, false, __ATOMIC_SEQ_CST);
  FILE* report = fopen(report_path, "w");
  if (report == NULL) {
    fprintf(stderr, "instruction_counter: cannot write %s\n", report_path);
    return;
  }
  fprintf(report, "marked %u\n", thread);
  for (Block* block = __atomic_load_n(&blocks, __ATOMIC_ACQUIRE); block != NULL; block = block->next) {
    write_block(report, block);
  }
  copy_memory_map(report);
  fclose(report);
}

static void system_call(qemu_plugin_id_t id, unsigned int thread, int64_t number, uint64_t which, uint64_t begins,
                        uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number != GETPRIORITY || which != MARK) return;
  if (begins) {
    begin();
  } else {
    end(thread);
  }
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t* info, int argc, char** argv) {
  (void)info;
  if (argc != 1 || strncmp(argv[0], "report=", 7) != 0) {
    fprintf(stderr, "instruction_counter: say where the report goes: -plugin instruction_counter.so,report=FILE\n");
    return 1;
  }
  report_path = strdup(argv[0] + 7);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, system_call);
  return 0;
}
