// Rung 3: tensor cores.
//
// One instruction, mma.sync, multiplies 16 x 8 by 8 x 8 numbers for a whole warp: 1024 multiplications and additions,
// where a plain instruction does 32. The numbers are rounded to TF32, eleven bits, and summed in float32: 3e-4 of the
// result. A warp makes 32 x 32 of the block's 64 x 64. Look at tile.cuh for what each of the 32 lanes holds of the three
// matrices, and at the rows' lengths here, 36 and 72, chosen so that the lanes of one load never meet in a bank. The
// arithmetic is fast enough that the loads, which everybody waits for between the two barriers, are what takes time.
//
// Resident: conv 4 of 128
#include "tile.cuh"

#include "image.cuh"

constexpr int PIXELS = 64, OUTPUTS = 64, DEPTH = 32, THREADS = 128, LDA = DEPTH + 4, LDB = OUTPUTS + 8;
typedef Vector<float, 4> Four;

// grid: (ceil(pixels / 64), ceil(outputs / 64)); block: 128
extern "C" __global__ void __launch_bounds__(THREADS)
conv(const float* __restrict__ x, const float* __restrict__ w, float* __restrict__ y, Image s) {
  DYNAMIC_SHARED(float, a);  // [64][36], then [32][72]
  float* b = a + PIXELS * LDA;
  const int m0 = blockIdx.x * PIXELS, k0 = blockIdx.y * OUTPUTS, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int down = warp / 2 * 32, across = warp % 2 * 32;
  WarpTile<Tf32, 32, 32> tile;
  tile.clear();
  for (int slice = 0; slice < 9 * s.channels / DEPTH; slice++) {
    const int tap = slice * DEPTH / s.channels, c0 = slice * DEPTH % s.channels;
    for (int u = threadIdx.x; u < PIXELS * DEPTH / 4; u += THREADS) {
      const int row = u / (DEPTH / 4), c = u % (DEPTH / 4) * 4;
      const long long pixel = seen(m0 + row, tap, s);
      (pixel < 0 ? Four{} : Four::load(x + pixel * s.channels + c0 + c)).store(a + row * LDA + c);
    }
    for (int u = threadIdx.x; u < DEPTH * OUTPUTS / 4; u += THREADS) {
      const int row = u / (OUTPUTS / 4), k = u % (OUTPUTS / 4) * 4;
      const bool inside = k0 + k < s.outputs;
      (inside ? Four::load(w + ((long long)slice * DEPTH + row) * s.outputs + k0 + k) : Four{}).store(b + row * LDB + k);
    }
    __syncthreads();
#pragma unroll
    for (int d = 0; d < DEPTH; d += Tf32::DEPTH)
      tile.step<true, LDA, LDB>(a + down * LDA + d, b + d * LDB + across, lane);
    __syncthreads();
  }
  tile.each_pair(lane, [&](int i, int j, float2 pair) {
    const int m = m0 + down + i, k = k0 + across + j;
    if (m < s.pixels() && k < s.outputs) *(float2*)(y + (long long)m * s.outputs + k) = pair;
  });
}
