// Rung 2: tiles in registers, and loads of four numbers.
//
// A thread makes 4 pixels x 4 outputs. From shared memory it takes four numbers of either matrix with one load each, and
// does sixteen multiplications and additions with them: one load for eight of these, not two for one. Global memory is
// read 16 bytes a thread as well: a quarter of the instructions. Look at where pixels are stored, transposed, so that four
// neighbouring pixels of one depth are one load, and at the four more columns of a row, without which the eight threads
// that store one pixel's channels would meet in one bank of shared memory. The arithmetic is what limits now: 128
// multiplications and additions a cycle and multiprocessor are all that plain instructions can do.
//
// Resident: conv 4 of 256
#include "types.cuh"

#include "image.cuh"

constexpr int PIXELS = 64, OUTPUTS = 64, DEPTH = 32, THREADS = 256;
typedef Vector<float, 4> Four;

// grid: (ceil(pixels / 64), ceil(outputs / 64)); block: 256
extern "C" __global__ void __launch_bounds__(THREADS)
conv(const float* __restrict__ x, const float* __restrict__ w, float* __restrict__ y, Image s) {
  SHARED(float, a, [DEPTH][PIXELS + 4]);
  SHARED(float, b, [DEPTH][OUTPUTS]);
  const int m0 = blockIdx.x * PIXELS, k0 = blockIdx.y * OUTPUTS;
  const int across = threadIdx.x % 16 * 4, down = threadIdx.x / 16 * 4;
  float sum[4][4] = {};
  for (int slice = 0; slice < 9 * s.channels / DEPTH; slice++) {
    const int tap = slice * DEPTH / s.channels, c0 = slice * DEPTH % s.channels;
    for (int u = threadIdx.x; u < PIXELS * DEPTH / 4; u += THREADS) {
      const int row = u / (DEPTH / 4), c = u % (DEPTH / 4) * 4;
      const long long pixel = seen(m0 + row, tap, s);
      const Four four = pixel < 0 ? Four{} : Four::load(x + pixel * s.channels + c0 + c);
      for (int e = 0; e < 4; e++) a[c + e][row] = four.at[e];
    }
    for (int u = threadIdx.x; u < DEPTH * OUTPUTS / 4; u += THREADS) {
      const int row = u / (OUTPUTS / 4), k = u % (OUTPUTS / 4) * 4;
      const bool inside = k0 + k < s.outputs;
      (inside ? Four::load(w + ((long long)slice * DEPTH + row) * s.outputs + k0 + k) : Four{}).store(&b[row][k]);
    }
    __syncthreads();
    for (int d = 0; d < DEPTH; d++) {
      const Four of_a = Four::load(&a[d][down]), of_b = Four::load(&b[d][across]);
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) sum[i][j] += of_a.at[i] * of_b.at[j];
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; i++)
    if (m0 + down + i < s.pixels() && k0 + across < s.outputs)
      Four{{sum[i][0], sum[i][1], sum[i][2], sum[i][3]}}.store(y + (long long)(m0 + down + i) * s.outputs + k0 + across);
}
