// Convolution of NHWC images on tensor cores, as an implicit matrix product.
//
// Idea   A block makes BM pixels x BN outputs. It loads what its pixels see of the image, a slice of BK channels at a time,
//        once: the nine taps of a 3 x 3 kernel read the same shared memory at nine offsets, so that an input passes
//        through L2 about 1.4 times, not nine, and can be normalised on its way (GroupNorm + SiLU + dropout, by the thread
//        that copied it, before the barrier that was needed anyway). Weights follow tap by tap through a ring of STAGES,
//        so that STAGES - 1 copies are always on their way. Bias, time shift and residual are added to the sums in
//        registers.
// Shapes y[m, k] = bias[k] + shift[image(m), k] + residual[m, k] + sum over taps, c of h[m + tap, c] weight[tap, c, k],
//        h the input [x, skip] or its normalisation. convolution.cuh says what a geometry covers: forward, the gradient
//        of the input (x = dy, BY_COLUMNS: weights as they are in memory read with their roles exchanged, no copy turned
//        round), strides, up-sampling, 1 x 1. The result may go to two arrays, the gradients of two joined inputs.
// Limit  64 x 32 outputs of a warp take 24 reads of shared memory for 16 products: tensor cores at about 60 % of the peak
//        that mma.sync can reach where channels are many (128 and more); with 32 or 64 channels, memory: 70 % of the copy
//        rate of x + y.
// Resident convolve 1 of 128, 1 of 256; sum_taps 6 of 256
#include "convolution.cuh"

// Weights of one tap and one slice: depth x outputs, or outputs x depth
template <int BK, int BN, bool BY_COLUMNS, int THREADS> struct Weights {
  // 8 (or 24) mod 32 words by depth, 4 mod 32 by columns: no two lanes in one bank
  static constexpr int PITCH = BY_COLUMNS ? BK + 4 : BN % 32 == 8 || BN % 32 == 24 ? BN : BN + 8;
  static constexpr int ROWS = BY_COLUMNS ? BN : BK, LENGTH = BY_COLUMNS ? BK : BN, SIZE = ROWS * PITCH;

  // weight: of this tap. Rows and columns from (row0, column0) of a matrix of rows x columns
  static __device__ __forceinline__ void
  fetch(float* to, const float* weight, int row0, int column0, int rows, int columns, bool aligned) {
    constexpr int CHUNKS = LENGTH / 4, ALL = ROWS * CHUNKS;
#pragma unroll
    for (int first = 0; first < ALL; first += THREADS) {
      const int u = first + threadIdx.x, row = row0 + u / CHUNKS, column = column0 + u % CHUNKS * 4;
      if (ALL % THREADS && u >= ALL) break;
      float* at = to + u / CHUNKS * PITCH + u % CHUNKS * 4;
      const float* from = weight + (long long)row * columns + column;
      auto source = [&](int e) { return row < rows && column + e < columns ? from + e : nullptr; };
      if (aligned) copy_chunk<true>(at, weight, source);
      else copy_chunk<false>(at, weight, source);
    }
  }
};

// grid: (tiles x ceil(outputs / BN), 1, phases), outputs innermost; block: 32 (BM / WM) (BN / WN) threads
// shared memory: slots x halo pixels x (BK + 4) + STAGES x Weights::SIZE floats, halo pixels ints
// One block at least: without a number the compiler spills registers for blocks that shared memory has no room for
template <class Math, int BM, int BN, int BK, int WM, int WN, int STAGES, bool ALIGNED, bool BY_COLUMNS, bool NORM>
__global__ void __launch_bounds__((BM / WM) * (BN / WN) * 32, 1)
convolve(const float* __restrict__ x, const float* __restrict__ skip, const float* __restrict__ weight,
         const float* __restrict__ mean, const float* __restrict__ rstd, const float* __restrict__ gamma,
         const float* __restrict__ beta, const float* __restrict__ mask, const float* __restrict__ bias,
         const float* __restrict__ shift, const float* residual, const float* residual2, float* y, float* y2, Conv s) {
  constexpr int THREADS = (BM / WM) * (BN / WN) * 32, PITCH = BK + 4, DOWN = WM / 16, ACROSS = WN / 8;
  typedef Halo<BK, PITCH, THREADS, ALIGNED> In;
  typedef Weights<BK, BN, BY_COLUMNS, THREADS> Filter;
  DYNAMIC_SHARED(float, memory);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int warp_row = warp / (BN / WN) * WM, warp_column = warp % (BN / WN) * WN;
  const Norm norm = {mean, rstd, gamma, beta, mask};
  const Phase phase = s.phase[blockIdx.z];
  const int channels = s.first + s.second, outputs = s.one + s.two, panels = (outputs + BN - 1) / BN;
  const int k0 = blockIdx.x % panels * BN;
  const Place tile = tile_origin(blockIdx.x / panels, s), origin = halo_origin(tile, s, phase, 0, 0);
  const int halo = s.tile_images * s.halo_rows * s.halo_columns * PITCH;
  float* filters = memory + s.slots * halo;
  int* places = (int*)(filters + STAGES * Filter::SIZE);
  In::list_places(places, s);
  __syncthreads();

  // A step is one tap of one slice of channels
  const int taps = phase.down * phase.right, steps = (channels + BK - 1) / BK * taps;
  int fetched = 0, coming_tap = 0, coming_row = 0, coming_column = 0, coming_slice = 0, coming_slot = 0;
  auto fetch = [&] {
    if (coming_tap == 0) In::fetch(memory + coming_slot * halo, places, origin, coming_slice * BK, x, skip, s);
    const int number = phase.tap + coming_row * phase.tap_down + coming_column * phase.tap_right;
    const float* from = weight + (long long)number * channels * outputs;
    float* to = filters + fetched % STAGES * Filter::SIZE;
    if constexpr (BY_COLUMNS) Filter::fetch(to, from, k0, coming_slice * BK, outputs, channels, s.vector_weights);
    else Filter::fetch(to, from, coming_slice * BK, k0, channels, outputs, s.vector_weights);
    fetched++;
    coming_tap++;
    if (++coming_column == phase.right) coming_column = 0, coming_row++;
    if (coming_tap == taps) {
      coming_tap = coming_row = 0;
      coming_slice++;
      if (++coming_slot == s.slots) coming_slot = 0;
    }
  };

  // Where this lane's row of each fragment lies in the halo; rows beyond the tile read its first pixel, for nothing
  int rows[DOWN];
#pragma unroll
  for (int i = 0; i < DOWN; i++) {
    const int m = warp_row + i * 16 + (lane & 15), pixels = s.tile_images * s.tile_rows * s.tile_columns;
    const Place at = place_in(m < pixels ? m : 0, s.tile_rows, s.tile_columns);
    const int pixel = (at.image * s.halo_rows + at.row * s.in_step) * s.halo_columns + at.column * s.in_step;
    rows[i] = pixel * PITCH + (lane >> 4) * 4;
  }

  float sum[DOWN][ACROSS][4] = {};
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) {
    if (stage < steps) fetch();
    commit_group();  // an empty one too, so that the count below is right
  }
  int row = 0, column = 0, slice = 0, slot = 0;
  for (int step = 0; step < steps; step++) {
    wait_group<STAGES - 2>();  // what this thread copied for this step has arrived
    if (NORM && row == 0 && column == 0) In::normalise(memory + slot * halo, places, origin, slice * BK, norm, s);
    __syncthreads();           // all has, and nobody reads any more what is overwritten next
    if (fetched < steps) fetch();
    commit_group();
    const float* a = memory + slot * halo + (row * s.halo_columns + column) * PITCH;
    const float* b = filters + step % STAGES * Filter::SIZE + (BY_COLUMNS ? warp_column * Filter::PITCH : warp_column);
#pragma unroll
    for (int d = 0; d < BK; d += Math::DEPTH) {
      Fragment<Math, 4> of_a[DOWN];
      Fragment<Math, 2> of_b[ACROSS];
#pragma unroll
      for (int i = 0; i < DOWN; i++) load_a_rows<Math>(of_a[i], a + rows[i] + d);
#pragma unroll
      for (int j = 0; j < ACROSS; j += BY_COLUMNS ? 2 : 1) {
        if constexpr (BY_COLUMNS) {
          load_b_columns<Math, Filter::PITCH>(of_b[j], of_b[j + 1], b + j * 8 * Filter::PITCH + d, lane);
        } else {
          float raw[UNITS<Math>][2];
          load_b_depths<Math, Filter::PITCH>(of_b[j], b + d * Filter::PITCH + j * 8, lane, raw);
        }
      }
#pragma unroll
      for (int i = 0; i < DOWN; i++)
#pragma unroll
        for (int j = 0; j < ACROSS; j++) multiply(sum[i][j], of_a[i], of_b[j]);
    }
    if (++column == phase.right) column = 0, row++;
    if (row == phase.down) {
      row = 0;
      slice++;
      if (++slot == s.slots) slot = 0;
    }
  }
  wait_group<0>();  // empty groups only: no copy may be under way when a block ends

  float of_bias[ACROSS][2];
#pragma unroll
  for (int j = 0; j < ACROSS; j++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int k = k0 + warp_column + j * 8 + (lane & 3) * 2 + e;
      of_bias[j][e] = bias && k < outputs ? bias[k] : 0.f;
    }
  // f(two sums, number of the first among the outputs, number of the pixel, shift of its image or null) for all of this lane
  auto each_pair = [&](auto f) {
#pragma unroll
    for (int i = 0; i < DOWN; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int m = warp_row + i * 16 + half * 8 + (lane >> 2);
        if (m >= s.tile_images * s.tile_rows * s.tile_columns) continue;
        const Place at = plus(tile, place_in(m, s.tile_rows, s.tile_columns));
        const long long pixel = output_pixel(at, s, phase);
        if (pixel < 0) continue;
        const float* of_image = shift ? shift + (long long)at.image * outputs : nullptr;
#pragma unroll
        for (int j = 0; j < ACROSS; j++) {
          const float* two = sum[i][j] + half * 2;
          const Vector<float, 2> v = {{two[0] + of_bias[j][0], two[1] + of_bias[j][1]}};
          f(v, k0 + warp_column + j * 8 + (lane & 3) * 2, pixel, of_image);
        }
      }
  };
  auto store = [&](auto v, int k, long long pixel, const float* of_image) {
    if (k >= outputs) return;
    const bool in_first = k < s.one;
    const long long at = in_first ? pixel * s.one + k : pixel * s.two + k - s.one;
    const float* more = in_first ? residual : residual2;
    constexpr int N = sizeof(v) / sizeof(float);
    if (of_image)
#pragma unroll
      for (int e = 0; e < N; e++) v.at[e] += of_image[k + e];
    if (more) {
      const auto w = decltype(v)::load(more + at);
#pragma unroll
      for (int e = 0; e < N; e++) v.at[e] += w.at[e];
    }
    v.store((in_first ? y : y2) + at);
  };
  // Two loops, not a branch for each pair, with which NVIDIA's compiler takes ten times as long
  if (s.pairs) each_pair(store);
  else
    each_pair([&](Vector<float, 2> v, int k, long long pixel, const float* of_image) {
      store(Vector<float, 1>{{v.at[0]}}, k, pixel, of_image);
      store(Vector<float, 1>{{v.at[1]}}, k + 1, pixel, of_image);
    });
}

// The weights that pixels of one parity see after nearest x2 up-sampling, for a 3 x 3 kernel: all 4 x 4 distances
// u, v = -1..2 of a large pixel from its small one's first. u = -1: w[2]; 0: w[1] + w[2]; 1: w[0] + w[1]; 2: w[0]
// (3, 3, count) -> (4, 4, count), count = channels x outputs. grid: (ceil(count / 256), 16)
extern "C" __global__ void sum_taps(const float* __restrict__ weight, float* __restrict__ out, int count) {
  const int at = blockIdx.x * blockDim.x + threadIdx.x, u = blockIdx.y / 4, v = blockIdx.y % 4;
  if (at >= count) return;
  float sum = 0.f;
  for (int i = max(0, 2 - u); i <= min(2, 3 - u); i++)
    for (int j = max(0, 2 - v); j <= min(2, 3 - v); j++) sum += weight[(long long)(i * 3 + j) * count + at];
  out[(long long)blockIdx.y * count + at] = sum;
}
