// The gradient of a convolution's weights on tensor cores, and of its bias in passing.
//
// Idea   A block makes the gradients of a window of ROWS x COLUMNS taps (all of a 3 x 3 kernel), BC channels and BN
//        outputs, over a share of the pixels. Tile by tile of at most BP pixels it loads what they see of the image, once
//        for all taps, and their gradients; a warp has one row of taps, so that what it loads of the gradients serves
//        for all taps of the row. Each share writes its own partial sums, which add_shares sums in a fixed order: the
//        result does not depend on which block came first.
// Shapes dweight[tap, c, k] = sum over pixels m of h[m + tap, c] dy[m, k], dbias[k] = sum over m of dy[m, k]; h, phases
//        and steps as in convolution.cu. partial: (shares, taps in memory, channels, outputs); partial_bias:
//        (shares x phases, outputs). The pixels summed are the depth of the product.
// Limit  24 products of a warp take 32 reads of shared memory: 45 % of the peak of mma.sync where images and channels are
//        many; else memory: x and dy once for every window x 32 channels and 64 outputs, and partial sums of 10 MB.
// Resident weight_gradient 2 of 64, 1 of 128, 1 of 192; add_shares 6 of 256
#include "convolution.cuh"

// grid: (ceil(channels / BC) x windows x ceil(outputs / BN), shares, phases), outputs innermost
// block: 32 ROWS (BC / WC) (BN / WN) threads
// shared memory: STAGES x (halo pixels x (BC + 8) + BP (BN + 8)) floats, halo pixels + 2 BP ints
template <class Math, int BC, int BN, int BP, int WC, int WN, int ROWS, int COLUMNS, int STAGES, bool ALIGNED, bool NORM>
__global__ void __launch_bounds__(ROWS * (BC / WC) * (BN / WN) * 32)
weight_gradient(const float* __restrict__ x, const float* __restrict__ skip, const float* __restrict__ dy,
                const float* __restrict__ mean, const float* __restrict__ rstd, const float* __restrict__ gamma,
                const float* __restrict__ beta, const float* __restrict__ mask, float* __restrict__ partial,
                float* __restrict__ partial_bias, Conv s, int tiles_per_share) {
  constexpr int WARPS = ROWS * (BC / WC) * (BN / WN), THREADS = WARPS * 32, PITCH = BC + 8, DY_PITCH = BN + 8;
  constexpr int DOWN = WC / 16, ACROSS = WN / 8;
  static_assert(BP % Math::DEPTH == 0, "whole instructions");
  typedef Halo<BC, PITCH, THREADS, ALIGNED> In;
  DYNAMIC_SHARED(float, memory);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int warp_tap = warp / ((BC / WC) * (BN / WN));
  const int warp_channel = warp / (BN / WN) % (BC / WC) * WC, warp_output = warp % (BN / WN) * WN;
  const Norm norm = {mean, rstd, gamma, beta, mask};
  const Phase phase = s.phase[blockIdx.z];
  const int channels = s.first + s.second, outputs = s.one, panels = (outputs + BN - 1) / BN;
  const int across = (phase.right + COLUMNS - 1) / COLUMNS, windows = (phase.down + ROWS - 1) / ROWS * across;
  const int k0 = blockIdx.x % panels * BN, window = blockIdx.x / panels % windows;
  const int c0 = blockIdx.x / panels / windows * BC;
  const int i0 = window / across * ROWS, j0 = window % across * COLUMNS;

  // Where things lie, the same in each tile: the halo's pixels; the tile's pixels, and where the halo has them
  const int halo_pixels = s.tile_images * s.halo_rows * s.halo_columns, stage_size = halo_pixels * PITCH + BP * DY_PITCH;
  const int pixels = s.tile_images * s.tile_rows * s.tile_columns;
  int* places = (int*)(memory + STAGES * stage_size);
  int* tile_places = places + halo_pixels;
  int* rows = tile_places + BP;
  In::list_places(places, s);
  for (int p = threadIdx.x; p < BP; p += THREADS) {
    const Place at = place_in(p < pixels ? p : 0, s.tile_rows, s.tile_columns);
    tile_places[p] = p < pixels ? pack(at.image, at.row, at.column) : -1;
    rows[p] = ((at.image * s.halo_rows + at.row * s.in_step) * s.halo_columns + at.column * s.in_step) * PITCH;
  }
  __syncthreads();

  const int all = (s.images + s.tile_images - 1) / s.tile_images * s.tiles_down * s.tiles_across;
  const int first = blockIdx.y * tiles_per_share, steps = min(all - first, tiles_per_share);
  auto fetch = [&](int step) {
    float* to = memory + step % STAGES * stage_size;
    const Place tile = tile_origin(first + step, s);
    In::fetch(to, places, halo_origin(tile, s, phase, i0, j0), c0, x, skip, s);
    to += halo_pixels * PITCH;
    for (int u = threadIdx.x; u < BP * (BN / 4); u += THREADS) {
      const int p = u / (BN / 4), k = u % (BN / 4) * 4;
      const long long pixel = tile_places[p] < 0 ? -1 : output_pixel(plus(tile, unpack(tile_places[p])), s, phase);
      auto source = [&](int e) { return pixel >= 0 && k0 + k + e < outputs ? dy + pixel * outputs + k0 + k + e : nullptr; };
      if (s.vector_weights) copy_chunk<true>(to + p * DY_PITCH + k, dy, source);
      else copy_chunk<false>(to + p * DY_PITCH + k, dy, source);
    }
  };

  float sum[COLUMNS][DOWN][ACROSS][4] = {}, sum_bias[ACROSS] = {};
  const bool makes_bias = c0 == 0 && window == 0 && warp_tap == 0 && warp_channel == 0;
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) {
    if (stage < steps) fetch(stage);
    commit_group();  // an empty one too, so that the count below is right
  }
  for (int step = 0; step < steps; step++) {
    wait_group<STAGES - 2>();  // what this thread copied for this step has arrived
    float* h = memory + step % STAGES * stage_size;
    if (NORM) In::normalise(h, places, halo_origin(tile_origin(first + step, s), s, phase, i0, j0), c0, norm, s);
    __syncthreads();           // all has, and nobody reads any more what is overwritten next
    if (step + STAGES - 1 < steps) fetch(step + STAGES - 1);
    commit_group();
    const float* a = h + warp_tap * s.halo_columns * PITCH + warp_channel + (lane >> 2);
    const float* b = h + halo_pixels * PITCH + warp_output;
#pragma unroll 2
    for (int d = 0; d < BP; d += Math::DEPTH) {
      Fragment<Math, 2> of_b[ACROSS];
#pragma unroll
      for (int j = 0; j < ACROSS; j++) {
        float raw[UNITS<Math>][2];
        load_b_depths<Math, DY_PITCH>(of_b[j], b + d * DY_PITCH + j * 8, lane, raw);
        if (makes_bias)
#pragma unroll
          for (int unit = 0; unit < UNITS<Math>; unit++) sum_bias[j] += raw[unit][0] + raw[unit][1];
      }
      const float* at[UNITS<Math>][2];
#pragma unroll
      for (int unit = 0; unit < UNITS<Math>; unit++)
#pragma unroll
        for (int e = 0; e < 2; e++) at[unit][e] = a + rows[d + unit * 8 + (lane & 3) + e * 4];
#pragma unroll
      for (int tap = 0; tap < COLUMNS; tap++)
#pragma unroll
        for (int i = 0; i < DOWN; i++) {
          Fragment<Math, 4> of_a;
          load_a_depths<Math>(of_a, at, tap * PITCH + i * 16);
#pragma unroll
          for (int j = 0; j < ACROSS; j++) multiply(sum[tap][i][j], of_a, of_b[j]);
        }
    }
  }
  wait_group<0>();  // empty groups only: no copy may be under way when a block ends

  const long long matrix = (long long)channels * outputs;
  const int taps_in_memory = gridDim.z * phase.down * phase.right;
#pragma unroll
  for (int tap = 0; tap < COLUMNS; tap++) {
    const int row = i0 + warp_tap, column = j0 + tap;
    if (row >= phase.down || column >= phase.right) continue;
    const int number = phase.tap + row * phase.tap_down + column * phase.tap_right;
    float* to = partial + ((long long)blockIdx.y * taps_in_memory + number) * matrix;
#pragma unroll
    for (int i = 0; i < DOWN; i++)
#pragma unroll
      for (int j = 0; j < ACROSS; j++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int c = c0 + warp_channel + i * 16 + half * 8 + (lane >> 2);
          const int k = k0 + warp_output + j * 8 + (lane & 3) * 2;
          if (c >= channels || k >= outputs) continue;
          float* pair = to + (long long)c * outputs + k;
          const float* v = sum[tap][i][j] + half * 2;
          if (s.pairs) Vector<float, 2>{{v[0], v[1]}}.store(pair);
          else {
            pair[0] = v[0];
            if (k + 1 < outputs) pair[1] = v[1];
          }
        }
  }
  if (makes_bias && partial_bias)
#pragma unroll
    for (int j = 0; j < ACROSS; j++) {
      const float total = sum_lanes<4>(sum_bias[j]);
      const int k = k0 + warp_output + j * 8 + (lane >> 2);
      if ((lane & 3) == 0 && k < outputs)
        partial_bias[((long long)blockIdx.y * gridDim.z + blockIdx.z) * outputs + k] = total;
    }
}

// out[i] = the sum over shares of partial[share, i], of V neighbours, always in the same order: eight threads take every eighth
// share each, then one adds theirs. SUMMED: partial has 4 x 4 taps, out 3 x 3, each the sum of the four of which sum_taps
// made it a summand. The last blocks do the same for the bias. block: (32, 8); grid: ceil(count / (32 V)), count: of out,
// and ceil(outputs / 32)
template <bool SUMMED, int V>
__global__ void __launch_bounds__(256)
add_shares(const float* __restrict__ partial, float* __restrict__ out, int shares, int count, int matrix,
           const float* __restrict__ partial_bias, float* __restrict__ bias, int bias_shares, int outputs) {
  typedef Vector<float, V> Some;
  SHARED(Some, part, [8][32]);
  const int weight_blocks = (count + 32 * V - 1) / (32 * V);
  const bool of_bias = (int)blockIdx.x >= weight_blocks;
  const int at = of_bias ? (blockIdx.x - weight_blocks) * 32 + threadIdx.x : (blockIdx.x * 32 + threadIdx.x) * V;
  Some sum = {};
  auto add = [&](const Some& v) {
#pragma unroll
    for (int e = 0; e < V; e++) sum.at[e] += v.at[e];
  };
  if (of_bias) {
    if (at < outputs)
      for (int share = threadIdx.y; share < bias_shares; share += 8) sum.at[0] += partial_bias[share * outputs + at];
  } else if (at < count) {
    const long long length = SUMMED ? 16ll * matrix : count;
    const int tap = at / matrix, i = tap / 3, j = tap % 3, rest = at % matrix;
#pragma unroll(SUMMED ? 1 : 4)
    for (int share = threadIdx.y; share < shares; share += 8) {
      const float* from = partial + share * length;
      if constexpr (SUMMED) {
        for (int u = 2 - i; u <= 3 - i; u++)
          for (int v = 2 - j; v <= 3 - j; v++) add(Some::load(from + (long long)(u * 4 + v) * matrix + rest));
      } else {
        add(Some::load(from + at));
      }
    }
  }
  part[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y || at >= (of_bias ? outputs : count)) return;
#pragma unroll
  for (int y = 1; y < 8; y++) add(part[y][threadIdx.x]);
  if (of_bias) bias[at] = sum.at[0];
  else sum.store(out + at);
}
