// Threads of a block as fibers: each has a stack, and exactly one runs.
#pragma once
#if !defined(__x86_64__) || defined(EMULATION_UCONTEXT)
#include <ucontext.h>
#define EMULATION_PORTABLE_FIBERS
#endif

namespace emulation {

struct Fiber {
#ifdef EMULATION_PORTABLE_FIBERS
  ucontext_t context;
#else
  void* stack_pointer;
#endif
};

constexpr int MOST_THREADS = 1024;

void make_stacks();
// The fiber of this number will start in `body`, which must never return
void prepare(Fiber& fiber, unsigned number, void (*body)());
// From the fiber that runs to another; null is the launch itself
void switch_fiber(Fiber* from, Fiber* to);
// Whether the address lies in a stack: memory of one thread alone
bool in_stacks(const void* p);

}  // namespace emulation
