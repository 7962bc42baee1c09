// What an emulated kernel may ask of the machine that runs it; cuda.h gives most of it CUDA's names.
#pragma once
#include <cstddef>
#include <cstdint>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace emulation {

// Of the thread that runs; the only variables that kernels read
struct Coordinates {
  dim3 thread, block, block_size, grid_size;
};
extern Coordinates here;

// Shared memory: what the launch asked for, and arrays that the source declares, each known by a variable of its own.
// Both hold 0xff bytes (NaNs) when a block starts.
void* dynamic_shared();
void* static_shared(const void* site, size_t bytes);

// Barriers. Lanes of a warp meet in a collective when all that live and the mask names have called it
void sync_block();
void sync_warp(unsigned mask);
enum Shuffle { INDEXED, UP, DOWN, XOR };
void shuffle(unsigned mask, void* value, int bytes, Shuffle how, int by, int width);
unsigned ballot(unsigned mask, bool predicate);

// Tensor cores, by the fragment layouts of the PTX manual ("Warp-level matrix instructions"); each lane hands in its own
// registers: m16n8k8 in TF32, m16n8k16 in bfloat16, both adding to float32
void mma_tf32(float* d, const uint32_t* a, const uint32_t* b);
void mma_bf16(float* d, const uint32_t* a, const uint32_t* b);
// `matrices` (1, 2 or 4) of 8x8 16-bit elements: lane l names row l % 8 of matrix l / 8
void ldmatrix(uint32_t* r, const void* row, int matrices, bool transposed);

// cp.async: `size` bytes (4, 8 or 16), of which the first `bytes` are read and the others are zeros
void copy_async(void* to, const void* from, int bytes, int size);
void commit_group();
void wait_group(int left);

// wgmma: 64 x `columns` sums of a warpgroup += a b, to nothing unless `keep`; what an operand is, warpgroup.cuh says.
// publish: fence.proxy.async, after which products that begin behind a barrier see what this thread wrote
unsigned long long operand(const void* first, int rows, int depth);
void multiply_group(float* sum, unsigned long long a, unsigned long long b, int columns, bool bf16, bool keep);
void multiply_group(float* sum, const uint32_t* a, unsigned long long b, int columns, bool bf16, bool keep);
void commit_products();
void wait_products(int left);
void publish();

// Tells the detector that this thread touches memory by an atomic operation, which races with nothing
void touch_atomically(const void* p, int bytes);

}  // namespace emulation
