// A launch: blocks one after another, the threads of each in an order that the seed chooses, until they end or a
// mistake ends them.
#include "block.h"

#include <dlfcn.h>
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "detector.h"
#include "memory.h"

namespace emulation {

Coordinates here;
Block block;
Arguments arguments;
Statistics statistics;
bool launching, checking;

Thread* threads;
static void (*kernel)(void**);
static const char* kernel_name;
static sigjmp_buf escape;
static std::string reports;
static int errors;

// The order of threads. Seed 0: the lowest first, each warp as far as it gets, which is the largest skew between
// warps; 1: the highest first; others: by chance

static unsigned order_seed;
static uint64_t random_state;
static unsigned current_warp;

static unsigned random_number() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return unsigned(random_state >> 20);
}

static int choose(uint32_t set) {  // a bit of a set that is not empty
  if (order_seed == 0) return __builtin_ctz(set);
  if (order_seed == 1) return 31 - __builtin_clz(set);
  unsigned turn = random_number() & 31;
  uint32_t turned = (set >> turn) | (set << ((32 - turn) & 31));
  return (__builtin_ctz(turned) + turn) & 31;
}

static Thread* next_thread() {
  if (!block.warps[current_warp].ready || (order_seed > 1 && random_number() % 64 == 0)) {
    uint32_t set = 0;
    for (size_t w = 0; w < block.warps.size(); w++)
      if (block.warps[w].ready) set |= 1u << w;
    if (!set) return nullptr;
    current_warp = choose(set);
  }
  return &threads[current_warp * 32 + choose(block.warps[current_warp].ready)];
}

static void become(Thread* thread) {
  block.running = thread;
  here.thread = thread->place;
}

static void go_on_with(Thread* next, Thread* me) {
  if (next == me) return;
  if (next) become(next);
  switch_fiber(me ? &me->fiber : nullptr, next ? &next->fiber : nullptr);
}

void suspend() {
  Thread* me = block.running;
  go_on_with(next_thread(), me);
  if (block.running != me) become(me);
}

// The barrier of the block

static const void* barrier_site;
static bool site_reported;

void open_barrier_if_all_arrived() {
  if (!block.live || block.arrived != block.live) return;
  block.arrived = 0;
  block.epoch++;
  statistics.barriers++;
  for (Warp& warp : block.warps) {
    warp.ready |= warp.at_barrier;
    warp.at_barrier = 0;
  }
}

void sync_block() {
  Thread& me = *block.running;
  Warp& warp = block.warps[me.warp];
  uint32_t bit = 1u << me.lane;
  const void* site = __builtin_return_address(0);
  if (checking && block.arrived && site != barrier_site && !site_reported) {
    // launch.py drops this where both are one line of the source, which the compiler has doubled
    site_reported = true;
    report(std::string(where()) + ": threads met in two different __syncthreads:" + code_place(site) + " and" +
           code_place(barrier_site));
  }
  barrier_site = site;
  block.arrived++;
  warp.at_barrier |= bit;
  warp.ready &= ~bit;
  open_barrier_if_all_arrived();
  if (!(warp.ready & bit)) suspend();
}

// Reports

const char* where() {
  static char text[300];
  const Thread& me = *block.running;
  snprintf(text, sizeof text, "%.150s, block (%u,%u,%u), thread (%u,%u,%u)", kernel_name, here.block.x, here.block.y,
           here.block.z, me.place.x, me.place.y, me.place.z);
  return text;
}

std::string code_place(const void* pc) {
  Dl_info info;
  if (!pc || !dladdr(pc, &info)) return "";
  char offset[40];
  snprintf(offset, sizeof offset, "+0x%tx]", (char*)pc - 1 - (char*)info.dli_fbase);
  return std::string(" [") + info.dli_fname + offset;
}

void count_error() { errors++; }

void report(const std::string& text) {
  if (errors++ < 8) reports += text + "\n";
}

void fail(const std::string& text) {
  report(std::string(where()) + ": " + text);
  siglongjmp(escape, 1);
}

std::string tangle() {
  int at_barrier = 0, in_warps = 0;
  for (const Warp& warp : block.warps) {
    at_barrier += __builtin_popcount(warp.at_barrier);
    in_warps += __builtin_popcount(warp.waiting);
  }
  return "deadlock: no thread can go on; " + std::to_string(at_barrier) + " wait in __syncthreads, " +
         std::to_string(in_warps) + " in operations of a warp";
}

static void on_signal(int number, siginfo_t* info, void*) {
  if (!launching) {
    signal(number, SIG_DFL);
    return;
  }
  if (number == SIGFPE) fail("division by zero");
  // A misaligned vector faults without an address
  fail(info->si_addr ? "illegal access, " + describe(info->si_addr) : "illegal access: a null pointer or a misaligned vector");
}

struct Handlers {  // of faults, for the length of a launch
  static constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE};
  struct sigaction before[3];
  stack_t stack_before;
  Handlers() {
    static char stack[65536];
    stack_t alternative{};
    alternative.ss_sp = stack;
    alternative.ss_size = sizeof stack;
    sigaltstack(&alternative, &stack_before);
    struct sigaction action{};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < 3; i++) sigaction(SIGNALS[i], &action, &before[i]);
  }
  ~Handlers() {
    for (int i = 0; i < 3; i++) sigaction(SIGNALS[i], &before[i], nullptr);
    sigaltstack(&stack_before, nullptr);
  }
};

// The life of a block

static void thread_body() {
  kernel(arguments.pointers);
  Thread& me = *block.running;
  Warp& warp = block.warps[me.warp];
  drop_copies_of_ending_thread();
  drop_products_of_ending_thread();
  uint32_t bit = 1u << me.lane;
  warp.live &= ~bit;
  warp.ready &= ~bit;
  block.live--;
  // Those that wait no longer wait for this one
  open_barrier_if_all_arrived();
  complete_collectives(me.warp);
  go_on_with(next_thread(), &me);
  abort();
}

static void run_block(unsigned number, size_t shared) {
  const dim3 &grid = here.grid_size, &size = here.block_size;
  here.block = dim3(number % grid.x, number / grid.x % grid.y, number / (grid.x * grid.y));
  unsigned count = size.x * size.y * size.z;
  block.number = number, block.epoch = 0, block.live = int(count), block.arrived = 0;
  block.warps.assign((count + 31) / 32, Warp());
  start_shared(shared);
  statistics.blocks++;
  for (unsigned i = 0; i < count; i++) {
    Thread& thread = threads[i];
    thread.index = i, thread.warp = i / 32, thread.lane = i % 32, thread.warp_epoch = 0;
    thread.place = dim3(i % size.x, i / size.x % size.y, i / (size.x * size.y));
    thread.groups.clear();
    thread.uncommitted.clear();
    thread.unfinished.clear();
    thread.product_groups.clear();
    thread.published = 0;
    prepare(thread.fiber, i, thread_body);
    block.warps[thread.warp].live |= 1u << thread.lane;
  }
  for (Warp& warp : block.warps) warp.ready = warp.live;
  current_warp = order_seed > 1 ? random_number() % block.warps.size() : 0;
  while (block.live) {
    Thread* next = next_thread();
    if (!next) fail(tangle());
    go_on_with(next, nullptr);
  }
}

static void run_grid(size_t shared) {
  unsigned count = here.grid_size.x * here.grid_size.y * here.grid_size.z;
  for (unsigned n = 0; n < count; n++)  // blocks too come in no promised order
    run_block(order_seed == 0 ? n : order_seed == 1 ? count - 1 - n : (n + order_seed) % count, shared);
}

}  // namespace emulation

using namespace emulation;

// Runs a kernel on a grid. sizes: grid x, y, z, block x, y, z; check: whether it was compiled with the detector's hooks.
// Returns the number of errors; emulation_reports() says them in words.
extern "C" int emulation_launch(void (*function)(void**), const char* name, const unsigned* sizes, size_t shared,
                                unsigned seed, int check, int count, const size_t* bytes, void** values) {
  if (!threads) threads = new Thread[MOST_THREADS];
  make_stacks();
  make_shared_arena();
  reports.clear();
  errors = 0, site_reported = false;
  kernel = function, kernel_name = name, checking = check;
  order_seed = seed, random_state = 0x9e3779b97f4a7c15ull * (seed + 1);
  here.grid_size = dim3(sizes[0], sizes[1], sizes[2]), here.block_size = dim3(sizes[3], sizes[4], sizes[5]);
  block.launch++;
  start_launch_detection();
  for (size_t i = 0, at = 0; i < size_t(count); at += (bytes[i] + 15) & ~size_t(15), i++) {
    memcpy(arguments.bytes + at, values[i], bytes[i]);
    arguments.pointers[i] = arguments.bytes + at;
  }
  Handlers handlers;
  launching = true;
  if (!sigsetjmp(escape, 1)) run_grid(shared);
  launching = false;
  return errors;
}

extern "C" const char* emulation_reports() { return reports.c_str(); }

extern "C" void emulation_statistics(long long* out, int reset) {
  memcpy(out, &statistics, sizeof statistics);
  if (reset) statistics = {};
}
