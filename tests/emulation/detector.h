// Checked mode: every access of memory, seen through the hooks that g++ -fsanitize=thread calls, against those before.
// Finds races between barriers, blocks of a launch that share memory, exact bounds, and reads of unfinished copies,
// whatever the order in which threads happen to run.
#pragma once
#include <cstddef>

namespace emulation {

struct Thread;

// Bytes that one Shadow stands for. Two bfloat16 in a word are no race; kernels of bytes would need 1
constexpr int GRAIN = 2;

struct Shadow {                // who touched these bytes last, and when; as if nobody had, if in another launch
  unsigned launch, block;
  unsigned copier;             // 1 + the thread whose cp.async has not arrived; 0: none
  unsigned writer, write_block_epoch, write_warp_epoch;  // 1 + thread; 0: none
  unsigned write_published;    // fences towards the tensor cores that the writer had passed
  unsigned reader, read_block_epoch, read_warp_epoch;
  bool lanes_read, warps_read, other_block_read;  // whether the reader stands for several
};

void accessed(const void* p, int bytes, bool write, const Thread& by, const void* pc);
// 16 bytes of shared memory that a wgmma reads
void product_reads(const void* p, const Thread& by, const void* pc);
void copy_started(void* to, int bytes, unsigned thread, const void* pc);
void copy_arrived(void* to, int bytes);
void start_launch_detection();

}  // namespace emulation
