// What the 32 lanes of a warp do together: products on tensor cores, loads of their operands, copies in the background,
// sums. One name, two bodies: PTX on a GPU (Ampere and later), the emulation elsewhere.
#pragma once
#include "types.cuh"

constexpr unsigned ALL_LANES = 0xffffffffu;

#ifdef __CUDA_ARCH__
#define SHARED_ADDRESS(p) ((uint32_t)__cvta_generic_to_shared(p))

// d (16x8, float32) += a (16x8) b (8x8). Operands are float32 bits, of which the hardware drops the low 13: see tf32()
__device__ __forceinline__ void mma_tf32(float* d, const uint32_t* a, const uint32_t* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d (16x8, float32) += a (16x16) b (16x8): two bfloat16 in a register, the first in its low half
__device__ __forceinline__ void mma_bf16(float* d, const uint32_t* a, const uint32_t* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// x to the nearest of TF32's eleven bits, as float32 bits
__device__ __forceinline__ uint32_t tf32(float x) {
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
}

// Four 8x8 matrices of 16-bit elements. Lane l names row l % 8 of matrix l / 8 and gets, in r[m], word l % 4 of row l / 4
// of matrix m
__device__ __forceinline__ void ldmatrix4(uint32_t* r, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SHARED_ADDRESS(row))
               : "memory");
}

// The same, transposed: r[m] holds elements (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4)
__device__ __forceinline__ void ldmatrix4_transposed(uint32_t* r, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SHARED_ADDRESS(row))
               : "memory");
}

// 16 bytes from global to shared memory, both aligned to 16; zeros unless `valid`, and then `from` is not read
__device__ __forceinline__ void copy_async16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SHARED_ADDRESS(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most LEFT of this thread's groups are under way. Other threads see what arrived after a barrier only
template <int LEFT> __device__ __forceinline__ void wait_group() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

#elif !defined(__CUDACC__)

using emulation::commit_group;
using emulation::mma_bf16;
using emulation::mma_tf32;
// NaNs apart: adding to the bits of 0xffffffff would make it 0, and hide memory that was never written
inline uint32_t tf32(float x) { return x != x ? 0x7fffe000u : (__float_as_uint(x) + 0x1000u) & ~0x1fffu; }
inline void ldmatrix4(uint32_t* r, const void* row) { emulation::ldmatrix(r, row, 4, false); }
inline void ldmatrix4_transposed(uint32_t* r, const void* row) { emulation::ldmatrix(r, row, 4, true); }
inline void copy_async16(void* to, const void* from, bool valid) {
  emulation::copy_async(to, from, valid ? 16 : 0, 16);
}
template <int LEFT> void wait_group() { emulation::wait_group(LEFT); }

#else  // nvcc's pass over the host's code wants the names alone

__device__ void mma_tf32(float*, const uint32_t*, const uint32_t*);
__device__ void mma_bf16(float*, const uint32_t*, const uint32_t*);
__device__ uint32_t tf32(float);
__device__ void ldmatrix4(uint32_t*, const void*);
__device__ void ldmatrix4_transposed(uint32_t*, const void*);
__device__ void copy_async16(void*, const void*, bool);
__device__ void commit_group();
template <int LEFT> __device__ void wait_group();

#endif

// The sum over all lanes, in every lane; in one order, hence the same bits each time. Also over groups of WIDTH lanes
template <int WIDTH = 32> __device__ __forceinline__ float sum_lanes(float x) {
#pragma unroll
  for (int step = WIDTH / 2; step; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
  return x;
}

template <int WIDTH = 32> __device__ __forceinline__ float max_lanes(float x) {
#pragma unroll
  for (int step = WIDTH / 2; step; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
  return x;
}
