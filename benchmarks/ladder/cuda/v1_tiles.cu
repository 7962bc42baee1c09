// Rung 1: a matrix product, tile by tile through shared memory.
//
// A convolution is the product of a matrix of pixels x (tap, channel), which is gathered and never written down, and of
// the weights, (tap, channel) x outputs. A block makes 32 pixels x 32 outputs. It goes through the depth of the product 32
// at a time: each thread brings one number of either matrix to shared memory, and then uses 32 of each that others
// brought. What came from L2 is used 32 times now. Look at the innermost loop again: there are still two loads, from
// shared memory, for each multiplication and addition; they take a few cycles each, not hundreds, but they are as many.
//
// Resident: conv 1 of 1024
#include "types.cuh"

#include "image.cuh"

constexpr int SIDE = 32;

// grid: (ceil(pixels / 32), outputs / 32); block: (32, 32)
extern "C" __global__ void __launch_bounds__(SIDE* SIDE)
conv(const float* __restrict__ x, const float* __restrict__ w, float* __restrict__ y, Image s) {
  SHARED(float, a, [SIDE][SIDE]);
  SHARED(float, b, [SIDE][SIDE]);
  const int across = threadIdx.x, down = threadIdx.y;
  const int m = blockIdx.x * SIDE + down, k = blockIdx.y * SIDE + across;
  float sum = 0.f;
  for (int tap = 0; tap < 9; tap++) {
    const long long pixel = seen(m, tap, s);
    for (int c = 0; c < s.channels; c += SIDE) {
      a[down][across] = pixel < 0 ? 0.f : x[pixel * s.channels + c + across];
      b[down][across] = w[((long long)tap * s.channels + c + down) * s.outputs + k];
      __syncthreads();
      for (int d = 0; d < SIDE; d++) sum += a[down][d] * b[d][across];
      __syncthreads();
    }
  }
  if (m < s.pixels()) y[(long long)m * s.outputs + k] = sum;
}
