// Element types and memory, the same on a GPU and where kernels are emulated (tests/emulation).
//   SHARED(float, part, [4][32])   an array in shared memory: __shared__ float part[4][32]
//   DYNAMIC_SHARED(float, rows)    the shared memory that the launch asks for, as a pointer aligned to 16 bytes
//   EACH(i, count) { … }           the loop of a thread over its share of `count` things, by the grid's stride
#pragma once
#ifdef __CUDACC__
typedef unsigned int uint32_t;
typedef unsigned short uint16_t;
#define SHARED(T, name, ...) __shared__ T name __VA_ARGS__
#define DYNAMIC_SHARED(T, name)                                                    \
  extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];          \
  T* name = (T*)dynamic_shared_memory
#endif

#define EACH(i, count) \
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < (count); i += gridDim.x * blockDim.x)

struct bf16 {
  uint16_t bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }

// To the nearest, ties to even
#ifdef __CUDA_ARCH__
__device__ __forceinline__ bf16 to_bf16(float x) {
  bf16 r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
  return r;
}
#else
__device__ __forceinline__ bf16 to_bf16(float x) {
  uint32_t u = __float_as_uint(x);
  return {(uint16_t)(x != x ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
#endif

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return to_bf16(x); }

// N neighbouring elements, moved as one access of N sizeof(T) bytes, to which their address must be aligned
template <class T, int N> struct alignas(N * sizeof(T)) Vector {
  T at[N];
  static __device__ __forceinline__ Vector load(const T* p) { return *(const Vector*)p; }
  __device__ __forceinline__ void store(T* p) const { *(Vector*)p = *this; }
};

// Elements of 16 bytes, the widest access
template <class T> constexpr int WIDE = 16 / (int)sizeof(T);
