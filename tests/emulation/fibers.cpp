#include "fibers.h"

#include <sys/mman.h>

#include <cstddef>

namespace emulation {

constexpr size_t STACK = 256 << 10;  // address space only: pages appear as they are touched
static char* stacks;
static Fiber launch_fiber;

void make_stacks() {
  if (stacks) return;
  stacks = (char*)mmap(nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

bool in_stacks(const void* p) { return (char*)p >= stacks && (char*)p < stacks + MOST_THREADS * STACK; }

#ifdef EMULATION_PORTABLE_FIBERS

void prepare(Fiber& fiber, unsigned number, void (*body)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stacks + number * STACK;
  fiber.context.uc_stack.ss_size = STACK;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, body, 0);
}

void switch_fiber(Fiber* from, Fiber* to) {
  swapcontext(&(from ? from : &launch_fiber)->context, &(to ? to : &launch_fiber)->context);
}

#else

// Saves the registers that a call preserves, and the stack: some forty times faster than swapcontext, which enters the kernel
extern "C" void emulation_switch(void** save, void* load);
asm(R"(
.text
.globl emulation_switch
.hidden emulation_switch
.type emulation_switch, @function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

void prepare(Fiber& fiber, unsigned number, void (*body)()) {
  void** top = (void**)(stacks + (number + 1) * STACK - 64);
  top[-1] = nullptr;           // as if called from nowhere: the stack is aligned as a function expects it
  top[-2] = (void*)body;       // where `ret` goes
  fiber.stack_pointer = top - 8;  // below it the six registers, whatever they hold
}

void switch_fiber(Fiber* from, Fiber* to) {
  emulation_switch(&(from ? from : &launch_fiber)->stack_pointer, (to ? to : &launch_fiber)->stack_pointer);
}

#endif

}  // namespace emulation
