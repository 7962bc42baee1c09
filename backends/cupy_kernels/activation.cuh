// SiLU and its derivative, for every kernel that applies them in passing.
#pragma once
#include "types.cuh"

// Beyond |x| = 88 the exponential is infinite or zero, and the quotient what it should be. A quotient by __fdividef is two
// instructions, right to two units in the last place, and zero for divisors above 2^126, as it should be here
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }
__device__ __forceinline__ float silu_of(float x) { return x * sigmoid(x); }
__device__ __forceinline__ float silu_slope(float x) {
  const float s = sigmoid(x);
  return s * (1.f + x * (1.f - s));
}
