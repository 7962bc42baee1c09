// The block that runs: its threads, its warps, what each waits for, and how errors are reported.
#pragma once
#include <setjmp.h>

#include <string>
#include <vector>

#include "fibers.h"
#include "machine.h"

namespace emulation {

struct Copy {  // a cp.async under way
  char* to;
  int size;
  char data[16];
};

struct Product {  // a wgmma under way
  float* sum;
  unsigned long long a, b;
  const uint32_t* registers;  // or null, and then the operand a
  uint32_t given[4], rows[2][8];  // what was in them, and rows g and g + 8 of all lanes
  int columns;
  bool bf16, keep;
  const void* pc;
};

struct Thread {
  Fiber fiber;
  dim3 place;
  unsigned index, warp, lane;
  unsigned warp_epoch;                    // __syncwarps passed
  std::vector<Copy> uncommitted;
  std::vector<std::vector<Copy>> groups;  // committed and not waited for, oldest first
  std::vector<Product> unfinished;
  std::vector<std::vector<Product>> product_groups;
  unsigned published;                     // fences towards the tensor cores passed
};

enum class Collective { NONE, SYNC, SHUFFLE, VOTE, MMA_TF32, MMA_BF16, LDMATRIX, ROWS };

struct Request {  // what a lane asks of a collective; a, b, c as that needs them
  Collective op;
  void* out;
  const void* in[2];
  int a, b, c;
  unsigned mask;
};

struct Warp {
  uint32_t live, ready, waiting, at_barrier;  // lanes: not ended; can run; in a collective; in __syncthreads
  Request request[32];
};

struct Block {
  unsigned launch, number, epoch;  // epoch: __syncthreads passed
  int live, arrived;
  std::vector<Warp> warps;
  Thread* running;
};

struct Statistics {
  long long mma, ldmatrix, ldmatrix_bank_conflicts, async_bytes, barriers, blocks, wgmma;
};

struct Arguments {  // of the launch, copied as a GPU copies them to its constant memory
  char bytes[4096];
  void* pointers[256];
};

extern Block block;
extern Thread* threads;         // of the block
extern Arguments arguments;
extern Statistics statistics;
extern bool launching;  // whether a kernel runs
extern bool checking;   // whether it was compiled with the detector's hooks

void suspend();                 // the running thread, which is no longer ready, until it is again
void complete_collectives(unsigned warp);
void perform(Warp& warp, uint32_t lanes);
void gather_rows(const uint32_t* a, uint32_t (*rows)[8]);
void open_barrier_if_all_arrived();
void drop_copies_of_ending_thread();
void drop_products_of_ending_thread();
std::string tangle();           // what the threads wait for, when none can go on

// Reports: collected for Python, the first few in words
const char* where();                                  // kernel, block and thread
std::string code_place(const void* pc);               // as launch.py turns it into a line of the source
void report(const std::string& text);                 // the launch goes on
[[noreturn]] void fail(const std::string& text);      // the launch ends; fibers stay behind, to be used afresh
void count_error();                                   // one more of a kind that was reported already

}  // namespace emulation
