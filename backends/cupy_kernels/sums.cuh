// Sums of long arrays in one order, hence the same bits each time: the first pass leaves the sum of each chunk of
// CHUNK elements, the second, one block, adds the chunks'.
#pragma once
#include "warp.cuh"

constexpr int CHUNK = 2048;  // elements of a block, fixed, so that the order does not depend on the device
constexpr int SUMMING = 256;  // threads of a block

// The sum of x over the block's SUMMING threads, in thread 0
__device__ __forceinline__ float sum_block(float x) {
  SHARED(float, part, [SUMMING / 32]);
  const int t = threadIdx.x;
  x = sum_lanes(x);
  if (t % 32 == 0) part[t / 32] = x;
  __syncthreads();
  if (t == 0)
    for (int warp = 1; warp < SUMMING / 32; warp++) x += part[warp];
  return x;
}

// The sum of `count` partial sums, in float64, in thread 0 of a block of SUMMING
__device__ __forceinline__ double sum_partial(const float* partial, int count) {
  SHARED(double, part, [SUMMING]);
  const int t = threadIdx.x;
  double sum = 0;
  for (int i = t; i < count; i += SUMMING) sum += partial[i];
  part[t] = sum;
  for (int half = SUMMING / 2; half; half /= 2) {
    __syncthreads();
    if (t < half) part[t] += part[t + half];
  }
  return part[0];
}
