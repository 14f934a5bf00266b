// Memory that the process has freed and its C library still keeps.
#pragma once

#include <cstdlib>  // says whether the C library is glibc

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace cospipe {

// Gives it back to the system. Work that is done once, on weights, would leave it resident for good: glibc keeps what
// was freed in between. Other C libraries give it back themselves.
inline void give_back_freed_memory() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

}  // namespace cospipe
