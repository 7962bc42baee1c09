// Rung 4: copies in the background.
//
// cp.async copies 16 bytes from global to shared memory without passing through a register, and without anybody waiting.
// Shared memory has room for three slices of the depth: while one is multiplied, two are on their way. Look at the loop:
// one barrier for a slice, not two, which says at once that all have received their copies of this slice and that nobody
// reads any more the slice before, whose place the next copy takes; and at the empty groups at the end, which keep the
// count right of how many copies may be outstanding. What is left: each pixel comes from L2 nine times, once a tap.
//
// Resident: conv 1 of 128
#include "tile.cuh"

#include "image.cuh"

constexpr int PIXELS = 64, OUTPUTS = 64, DEPTH = 32, THREADS = 128, STAGES = 3, LDA = DEPTH + 4, LDB = OUTPUTS + 8;
constexpr int STAGE = PIXELS * LDA + DEPTH * LDB;

// grid: (ceil(pixels / 64), ceil(outputs / 64)); block: 128
extern "C" __global__ void __launch_bounds__(THREADS)
conv(const float* __restrict__ x, const float* __restrict__ w, float* __restrict__ y, Image s) {
  DYNAMIC_SHARED(float, memory);
  const int m0 = blockIdx.x * PIXELS, k0 = blockIdx.y * OUTPUTS, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int down = warp / 2 * 32, across = warp % 2 * 32, slices = 9 * s.channels / DEPTH;

  auto fetch = [&](int slice) {
    float* a = memory + slice % STAGES * STAGE;
    float* b = a + PIXELS * LDA;
    const int tap = slice * DEPTH / s.channels, c0 = slice * DEPTH % s.channels;
    for (int u = threadIdx.x; u < PIXELS * DEPTH / 4; u += THREADS) {
      const int row = u / (DEPTH / 4), c = u % (DEPTH / 4) * 4;
      const long long pixel = seen(m0 + row, tap, s);
      copy_async16(a + row * LDA + c, pixel < 0 ? x : x + pixel * s.channels + c0 + c, pixel >= 0);
    }
    for (int u = threadIdx.x; u < DEPTH * OUTPUTS / 4; u += THREADS) {
      const int row = u / (OUTPUTS / 4), k = u % (OUTPUTS / 4) * 4;
      const bool inside = k0 + k < s.outputs;
      copy_async16(b + row * LDB + k, inside ? w + ((long long)slice * DEPTH + row) * s.outputs + k0 + k : w, inside);
    }
  };

  WarpTile<Tf32, 32, 32> tile;
  tile.clear();
  for (int slice = 0; slice < STAGES - 1; slice++) {
    fetch(slice);  // there are nine at least
    commit_group();
  }
  for (int slice = 0; slice < slices; slice++) {
    wait_group<STAGES - 2>();
    __syncthreads();
    if (slice + STAGES - 1 < slices) fetch(slice + STAGES - 1);
    commit_group();
    const float* a = memory + slice % STAGES * STAGE;
    const float* b = a + PIXELS * LDA;
#pragma unroll
    for (int d = 0; d < DEPTH; d += Tf32::DEPTH)
      tile.step<true, LDA, LDB>(a + down * LDA + d, b + d * LDB + across, lane);
  }
  wait_group<0>();
  tile.each_pair(lane, [&](int i, int j, float2 pair) {
    const int m = m0 + down + i, k = k0 + across + j;
    if (m < s.pixels() && k < s.outputs) *(float2*)(y + (long long)m * s.outputs + k) = pair;
  });
}
