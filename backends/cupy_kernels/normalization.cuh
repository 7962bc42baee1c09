// Moments that can be joined, and arrays that lie side by side along channels: for kernels about group normalisation.
#pragma once
#include "activation.cuh"
#include "warp.cuh"

// How many numbers, their mean, and the sum of their squared distances from it
struct Moments {
  float count, mean, squares;
};

// Of two sets together (Chan, Golub & LeVeque 1983, eq. 2.1)
__device__ __forceinline__ Moments joined(Moments a, Moments b) {
  const float count = a.count + b.count, share = b.count > 0.f ? __fdividef(b.count, count) : 0.f, gap = b.mean - a.mean;
  return {count, a.mean + gap * share, a.squares + b.squares + gap * gap * a.count * share};
}

// Of all lanes together; lane 0 has the result
__device__ __forceinline__ Moments joined_lanes(Moments a) {
#pragma unroll
  for (int step = 16; step; step /= 2)
    a = joined(a, {__shfl_down_sync(ALL_LANES, a.count, step), __shfl_down_sync(ALL_LANES, a.mean, step),
                   __shfl_down_sync(ALL_LANES, a.squares, step)});
  return a;
}

__device__ __forceinline__ float inverse_deviation(Moments a, float eps) {
  return 1.f / sqrtf(fmaxf(a.squares, 0.f) / a.count + eps);
}

// The pixels of one image at one channel of [first, second], joined along channels
template <class T> struct Column {
  T* at;
  int step;
  __device__ __forceinline__ T* pixel(int i) const { return at + (long long)i * step; }
};

// channels: of `first` and of `second`
template <class T>
__device__ __forceinline__ Column<T> column(T* first, T* second, int2 channels, int pixels, int image, int channel) {
  const long long before = (long long)image * pixels;
  if (channel < channels.x) return {first + before * channels.x + channel, channels.x};
  return {second + before * channels.y + channel - channels.x, channels.y};
}
