// Rung 0: the definition; a thread for each number of the result.
//
// Neighbouring threads have neighbouring outputs, so that their weights come in one transaction, and they all ask for the
// same x, which is one more. Look at the innermost loop: for each multiplication and addition a thread loads two numbers.
// A multiprocessor can do 128 of these a cycle and load 32: a quarter of the peak is the most there is, and every load
// waits for L1 or L2, hundreds of cycles, with nothing else to do but what other warps do.
//
// Resident: conv 6 of 256
#include "image.cuh"

// grid: ceil(pixels outputs / 256); block: 256
extern "C" __global__ void conv(const float* __restrict__ x, const float* __restrict__ w, float* __restrict__ y, Image s) {
  const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= (long long)s.pixels() * s.outputs) return;
  const int m = at / s.outputs, k = at % s.outputs;
  float sum = 0.f;
  for (int tap = 0; tap < 9; tap++) {
    const long long pixel = seen(m, tap, s);
    if (pixel < 0) continue;
    for (int c = 0; c < s.channels; c++)
      sum += x[pixel * s.channels + c] * w[((long long)tap * s.channels + c) * s.outputs + k];
  }
  y[at] = sum;
}
