/* Preloaded into a server, gives it the processor of another machine: the file that OTHER_CPUINFO names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

FILE* fopen(const char* path, const char* mode) {
  FILE* (*original)(const char*, const char*) = (FILE * (*)(const char*, const char*)) dlsym(RTLD_NEXT, "fopen");
  const char* other = getenv("OTHER_CPUINFO");
  return original(other != NULL && strcmp(path, "/proc/cpuinfo") == 0 ? other : path, mode);
}
