// The gradient of conv_weight_gradient.cu by warpgroups: for Hopper alone.
//
// Idea   Sixteen channels at one tap are a unit, the rows of one warp: four units make a product of wgmma with BN outputs. The
//        pixels that are summed are its depth. The image lies in shared memory as it is, one row of CG sixteens a pixel,
//        and each lane reads from there what its unit's tap meets: a tap is an offset. Gradients of the outputs are turned
//        round on their way, eight (bfloat16) or four pixels to a cell. Shares as in conv_weight_gradient.cu.
// Shapes as conv_weight_gradient.cu's, for kernels of at most 4 GROUPS UNITS / CG taps; channels are multiples of 4.
// Limit  of N = 64 outputs a product takes 32 cycles of the tensor core, and of shared memory: half for one operand, half for
//        the other. Partial sums: shares x taps x channels x outputs, written and read once.
// Resident weight_gradient_units 1 of 128, 1 of 256, 1 of 384, 1 of 512
#include "convolution.cuh"
#include "warpgroup.cuh"

// grid: (ceil(channels / (16 CG)) x ceil(outputs / BN), shares, phases), outputs innermost; block: 128 GROUPS threads
// shared memory: 2 x (halo pixels x (16 CG + 8, or 4 for bfloat16) floats), in cells 2 x raw gradients and 2 x PARTS planes
// of them, then halo pixels + 2 BP ints. At the end of a share, sums of the bias
template <class Math, int BN, int GROUPS, int UNITS, int CG, bool NORM>
__global__ void __launch_bounds__(128 * GROUPS)
weight_gradient_units(const float* __restrict__ x, const float* __restrict__ skip, const float* __restrict__ dy,
                      const float* __restrict__ mean, const float* __restrict__ rstd, const float* __restrict__ gamma,
                      const float* __restrict__ beta, const float* __restrict__ mask, float* __restrict__ partial,
                      float* __restrict__ partial_bias, Conv s, int tiles_per_share) {
  constexpr int THREADS = 128 * GROUPS, BC = 16 * CG, BP = 64;
  constexpr int LENGTH = CHUNK<Math>, PLANES = BP / LENGTH, PARTS = Math::PARTS, COLUMN = BN + 1;
  constexpr int BLOCKS = PLANES * (BN / 4), EACH = (BLOCKS + THREADS - 1) / THREADS;
  constexpr bool BF16 = LENGTH == 8;
  // Pixels t, or 2 t, and channels g: no two lanes in one bank
  constexpr int PITCH = BC + (BF16 ? 4 : 8);
  typedef Halo<BC, PITCH, THREADS, true> In;
  DYNAMIC_SHARED(float, memory);
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const Norm norm = {mean, rstd, gamma, beta, mask};
  const Phase phase = s.phase[blockIdx.z];
  const int channels = s.first + s.second, outputs = s.one, panels = (outputs + BN - 1) / BN;
  const int k0 = blockIdx.x % panels * BN, c0 = blockIdx.x / panels * BC;
  const int taps = phase.down * phase.right;

  const int halo_pixels = s.tile_images * s.halo_rows * s.halo_columns, pixels = s.tile_images * s.tile_rows * s.tile_columns;
  const int slot_size = halo_pixels * PITCH;  // of whole cells, as PITCH is
  Cell* raw = (Cell*)(memory + 2 * slot_size);
  Cell* cells = raw + 2 * BLOCKS * LENGTH;
  int* places = (int*)(cells + 2 * PARTS * PLANES * COLUMN);
  int* tile_places = places + halo_pixels;
  int* rows = tile_places + BP;
  In::list_places(places, s);
  for (int p = thread; p < BP; p += THREADS) {
    const Place at = place_in(p < pixels ? p : 0, s.tile_rows, s.tile_columns);
    tile_places[p] = p < pixels ? pack(at.image, at.row, at.column) : -1;
    rows[p] = ((at.image * s.halo_rows + at.row * s.in_step) * s.halo_columns + at.column * s.in_step) * PITCH;
  }
  __syncthreads();

  // Block u of the gradients: LENGTH pixels, four outputs; neighbours follow one another as far as a sector reaches
  const int all = (s.images + s.tile_images - 1) / s.tile_images * s.tiles_down * s.tiles_across;
  const int first = blockIdx.y * tiles_per_share, steps = min(all - first, tiles_per_share);
  auto plane_of = [](int u) { return u / 4 % PLANES; };
  auto column_of = [](int u) { return (u / (4 * PLANES) * 4 + u % 4) * 4; };
  auto fetch = [&](int step) {
    const Place tile = tile_origin(first + step, s);
    In::fetch(memory + step % 2 * slot_size, places, halo_origin(tile, s, phase, 0, 0), c0, x, skip, s);
    Cell* to = raw + step % 2 * BLOCKS * LENGTH;
    for (int u = thread; u < BLOCKS; u += THREADS)
#pragma unroll
      for (int i = 0; i < LENGTH; i++) {
        const int p = plane_of(u) * LENGTH + i, k = k0 + column_of(u);
        const long long pixel = tile_places[p] < 0 ? -1 : output_pixel(plus(tile, unpack(tile_places[p])), s, phase);
        auto source = [&](int e) { return pixel >= 0 && k + e < outputs ? dy + pixel * outputs + k + e : nullptr; };
        if (s.vector_weights) copy_chunk<true>((float*)(to + i * BLOCKS + u), dy, source);
        else copy_chunk<false>((float*)(to + i * BLOCKS + u), dy, source);
      }
  };
  float sum_bias[EACH][4] = {};
  auto keep = [&](int step) {
    const Cell* from = raw + step % 2 * BLOCKS * LENGTH;
    Cell* to = cells + step % 2 * PARTS * PLANES * COLUMN;
#pragma unroll
    for (int j = 0; j < EACH; j++) {
      const int u = thread + j * THREADS;
      if (BLOCKS % THREADS && u >= BLOCKS) break;
      float block[LENGTH][4];
#pragma unroll
      for (int i = 0; i < LENGTH; i++) {
        const Vector<float, 4> four = Vector<float, 4>::load((const float*)(from + i * BLOCKS + u));
#pragma unroll
        for (int e = 0; e < 4; e++) block[i][e] = four.at[e], sum_bias[j][e] += four.at[e];
      }
#pragma unroll
      for (int n = 0; n < 4; n++) {
        float v[LENGTH];
#pragma unroll
        for (int e = 0; e < LENGTH; e++) v[e] = block[e][n];
        store_cell<Math>(to + plane_of(u) * COLUMN + column_of(u) + n, PLANES * COLUMN, v);
      }
    }
  };

  // The units of this warp: what they add to where a pixel lies
  const int g = lane >> 2, t = lane & 3, sixteens = min(CG, (channels - c0 + 15) / 16);
  int offset[UNITS];
#pragma unroll
  for (int j = 0; j < UNITS; j++) {
    const int unit = ((warp >> 2) * UNITS + j) * 4 + (warp & 3), tap = unit % max(1, taps);
    const bool there = unit < taps * sixteens;
    offset[j] = there ? (tap / phase.right * s.halo_columns + tap % phase.right) * PITCH + unit / taps * 16 + g : g;
  }

  float sum[UNITS][BN / 2];
  if (steps > 0) fetch(0);
  commit_group();
  for (int step = 0; step < steps; step++) {
    wait_group<0>();  // what this thread copied for this step has arrived
    float* h = memory + step % 2 * slot_size;
    if (NORM) In::normalise(h, places, halo_origin(tile_origin(first + step, s), s, phase, 0, 0), c0, norm, s);
    keep(step);
    publish();
    __syncthreads();  // all has, and nobody reads any more what is overwritten next
    if (step + 1 < steps) fetch(step + 1);
    commit_group();
    const Cell* b = cells + step % 2 * PARTS * PLANES * COLUMN;
    constexpr int DEPTHS = BP / Math::DEPTH;
    uint32_t a[2][UNITS][PARTS][4];
#pragma unroll
    for (int d = 0; d < DEPTHS; d++) {
      // Two pixels of a word of bfloat16, one of TF32; words t and t + 4
      int at[2][LENGTH / 4];
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int e = 0; e < LENGTH / 4; e++)
          at[half][e] = rows[d * Math::DEPTH + half * LENGTH + t * (LENGTH / 4) + e];
#pragma unroll
      for (int j = 0; j < UNITS; j++)
#pragma unroll
        for (int w = 0; w < 4; w++) {
          const float* from = h + offset[j] + (w & 1) * 8;
          const float v = from[at[w >> 1][0]];
          if constexpr (BF16) {
            a[d & 1][j][0][w] = pair_bf16(v, from[at[w >> 1][LENGTH / 4 - 1]]);
          } else {
            a[d & 1][j][0][w] = tf32(v);
            if constexpr (PARTS == 2) a[d & 1][j][1][w] = tf32(v - __uint_as_float(a[d & 1][j][0][w]));
          }
        }
      fence_group();
      const int kept = step > 0 || d > 0;
#pragma unroll
      for (int j = 0; j < UNITS; j++) {
        auto of = [&](int part) { return operand(b + (part * PLANES + 2 * d) * COLUMN, 8, COLUMN); };
        if constexpr (PARTS == 2) {  // the small products first
          multiply_group<BN, BF16>(sum[j], a[d & 1][j][PARTS - 1], of(0), kept);
          multiply_group<BN, BF16>(sum[j], a[d & 1][j][0], of(1), 1);
        }
        multiply_group<BN, BF16>(sum[j], a[d & 1][j][0], of(0), PARTS == 2 || kept);
      }
      commit_products();
      if (d + 1 < DEPTHS) wait_products<1>();  // the others' registers are loaded next
    }
    wait_products<0>();
  }
  wait_group<0>();  // empty groups only: no copy may be under way when a block ends

  const long long matrix = (long long)channels * outputs;
  const int taps_in_memory = gridDim.z * taps;
#pragma unroll
  for (int j = 0; j < UNITS; j++) {
    const int unit = ((warp >> 2) * UNITS + j) * 4 + (warp & 3);
    if (unit >= taps * sixteens) continue;
    const int tap = unit % taps;
    const int number = phase.tap + tap / phase.right * phase.tap_down + tap % phase.right * phase.tap_right;
    float* to = partial + ((long long)blockIdx.y * taps_in_memory + number) * matrix;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int c = c0 + unit / taps * 16 + g + half * 8;
      if (c >= channels) continue;
#pragma unroll
      for (int i = 0; i < BN / 8; i++) {
        const int k = k0 + i * 8 + t * 2;
        if (k >= outputs) continue;
        float* pair = to + (long long)c * outputs + k;
        const float* v = sum[j] + i * 4 + half * 2;
        if (s.pairs) Vector<float, 2>{{v[0], v[1]}}.store(pair);
        else {
          pair[0] = v[0];
          if (k + 1 < outputs) pair[1] = v[1];
        }
      }
    }
  }
  if (c0 == 0 && partial_bias) {
    __syncthreads();  // nobody reads cells any more
    float* parts = (float*)cells;  // [plane][output]
#pragma unroll
    for (int j = 0; j < EACH; j++) {
      const int u = thread + j * THREADS;
      if (BLOCKS % THREADS && u >= BLOCKS) break;
#pragma unroll
      for (int e = 0; e < 4; e++) parts[plane_of(u) * BN + column_of(u) + e] = sum_bias[j][e];
    }
    __syncthreads();
    for (int k = thread; k < BN && k0 + k < outputs; k += THREADS) {
      float total = 0.f;
      for (int plane = 0; plane < PLANES; plane++) total += parts[plane * BN + k];
      partial_bias[((long long)blockIdx.y * gridDim.z + blockIdx.z) * outputs + k0 + k] = total;
    }
  }
}
