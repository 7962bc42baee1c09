// CUDA C++ as g++ understands it: the names that kernels use, on top of machine.h. Every kernel is compiled with
// `-include cuda.h`. What is not here (textures, clusters, half precision, wgmma) does not compile, rather than do
// something else than on a GPU.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "machine.h"

#define __global__
#define __device__ inline
#define __host__
#define __forceinline__
#define __noinline__ __attribute__((noinline))
#define __constant__ static
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) alignas(n)
// Plain `__shared__` would be memory that no launch poisons: kernels declare it by SHARED and DYNAMIC_SHARED
#define SHARED(T, name, ...)                                                                     \
  typedef T name##_array __VA_ARGS__;                                                            \
  static const char name##_site = 0;                                                             \
  name##_array& name = *(name##_array*)emulation::static_shared(&name##_site, sizeof(name##_array))
#define DYNAMIC_SHARED(T, name) T* name = (T*)emulation::dynamic_shared()

#define threadIdx (emulation::here.thread)
#define blockIdx (emulation::here.block)
#define blockDim (emulation::here.block_size)
#define gridDim (emulation::here.grid_size)
#define warpSize 32

// Vectors, as aligned as on a GPU

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// Threads that meet

#define __syncthreads() emulation::sync_block()
inline void __syncwarp(unsigned mask = ~0u) { emulation::sync_warp(mask); }
template <class T> T __shfl_sync(unsigned mask, T v, int lane, int width = 32) {
  emulation::shuffle(mask, &v, sizeof v, emulation::INDEXED, lane, width);
  return v;
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  emulation::shuffle(mask, &v, sizeof v, emulation::UP, int(delta), width);
  return v;
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  emulation::shuffle(mask, &v, sizeof v, emulation::DOWN, int(delta), width);
  return v;
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int lanes, int width = 32) {
  emulation::shuffle(mask, &v, sizeof v, emulation::XOR, lanes, width);
  return v;
}
inline unsigned __ballot_sync(unsigned mask, int predicate) { return emulation::ballot(mask, predicate != 0); }
inline int __any_sync(unsigned mask, int predicate) { return emulation::ballot(mask, predicate != 0) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return emulation::ballot(mask, predicate == 0) == 0; }
inline void __threadfence() {}
inline void __threadfence_block() {}

// Atomics: one thread runs at a time, so plain reads and writes do; they are hidden from the detector of races

#define EMULATION_ATOMIC(name, result)                                                           \
  template <class T> __attribute__((noinline, no_sanitize("thread"))) T name(T* p, T v) {        \
    emulation::touch_atomically(p, sizeof(T));                                                   \
    T old = *p;                                                                                  \
    *p = (result);                                                                               \
    return old;                                                                                  \
  }
EMULATION_ATOMIC(atomicAdd, old + v)
EMULATION_ATOMIC(atomicMax, old > v ? old : v)
EMULATION_ATOMIC(atomicMin, old < v ? old : v)
EMULATION_ATOMIC(atomicExch, v)
EMULATION_ATOMIC(atomicOr, old | v)
EMULATION_ATOMIC(atomicAnd, old & v)
template <class T> __attribute__((noinline, no_sanitize("thread"))) T atomicCAS(T* p, T expected, T v) {
  emulation::touch_atomically(p, sizeof(T));
  T old = *p;
  if (old == expected) *p = v;
  return old;
}

// Bits, loads and arithmetic

template <class To, class From> inline To emulation_bits(From v) {
  static_assert(sizeof(To) == sizeof(From), "of one size");
  To to;
  memcpy(&to, &v, sizeof to);
  return to;
}
inline unsigned __float_as_uint(float f) { return emulation_bits<unsigned>(f); }
inline float __uint_as_float(unsigned u) { return emulation_bits<float>(u); }
inline int __float_as_int(float f) { return emulation_bits<int>(f); }
inline float __int_as_float(int i) { return emulation_bits<float>(i); }
template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldcs(const T* p) { return *p; }
template <class T> inline void __stcs(T* p, T v) { *p = v; }
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.f / x; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
// A product that is not made one operation with a sum, which g++ would
inline float __fmul_rn(float a, float b) {
  volatile float product = a * b;
  return product;
}
inline double erfcx(double x) {  // of x >= 0
  if (x < 24) return exp(x * x) * erfc(x);
  double half = 0.5 / (x * x), term = 1, sum = 0;
  for (int k = 1; k < 12; k++) sum += term, term *= -(2 * k - 1) * half;
  return sum / (x * sqrt(M_PI));
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline void sincospif(float x, float* s, float* c) { *s = sinf(float(M_PI) * x), *c = cosf(float(M_PI) * x); }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }
template <class T> inline T min(T a, T b) { return b < a ? b : a; }
