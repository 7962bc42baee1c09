// The convolution of convolution.cu by warpgroups: for Hopper alone, on images whose pixels come in patches of 8 x 8.
//
// Idea   A warpgroup makes a patch of 8 x 8 output pixels x BN outputs by wgmma, which reads both operands from shared memory.
//        There a slice of BK channels of what the block sees is kept as planes of cells (warpgroup.cuh): a tap is another
//        first cell, and no operand is ever copied for it. What arrives from memory (cp.async, RAW steps ahead) waits in
//        a place that its thread alone knows, until that thread rounds it, normalises it (GroupNorm + SiLU + dropout),
//        turns weights round and stores it as cells, while products of the step before are under way. PATCHES
//        warpgroups of a block share weights, SPLIT of them share the channels of a slice and add their sums at the end:
//        for images so few that a multiprocessor would have little else to do.
// Shapes as convolution.cu's, except that channels are multiples of 4 and pixels lie in patches: a tile is 8 pixels wide, or
//        for products (flat geometry) 64 PATCHES. At a stride of two even columns come first, then odd ones.
// Limit  a step of 32 channels x BN outputs takes 2 BN cycles of the tensor core, and what turns weights round about
//        as long at BN = 64: half of the peak of TF32 where channels are many.
// Resident convolve_patches 1 of 128, 1 of 256, 1 of 512
#include "convolution.cuh"
#include "warpgroup.cuh"

// The pixels that a block sees, in the order of their cells
struct Seen {
  int pitch, half, pixels, plane;  // cells of a row; of its even columns; of all rows; of a plane, 1 mod 8: no two in a bank

  __device__ __forceinline__ explicit Seen(const Conv& s) {
    half = (s.halo_columns + 1) / 2;
    pitch = s.in_step == 2 ? 2 * half : s.halo_columns;
    pixels = s.tile_images * s.halo_rows * pitch;
    plane = pixels + ((1 - pixels) & 7);
  }
  __device__ __forceinline__ int cell_of(int row, int column, int step) const {
    return row * pitch + (step == 2 ? (column & 1) * half + (column >> 1) : column);
  }
  __device__ __forceinline__ int column_of(int in_row, int step) const {
    return step == 2 ? in_row % half * 2 + in_row / half : in_row;
  }
};

// grid: (tiles x ceil(outputs / BN), 1, phases), outputs innermost; block: 128 PATCHES SPLIT threads
// shared memory, in cells: slots x PARTS planes of cells, the raw slice, 3 stages of cells of weights, RAW stages of raw
// ones; then a word for each pixel. At the end the sums of all but the first of SPLIT
template <class Math, int BN, int PATCHES, int SPLIT, int RAW, bool BY_COLUMNS, bool NORM>
__global__ void __launch_bounds__(128 * PATCHES * SPLIT, 1)
convolve_patches(const float* __restrict__ x, const float* __restrict__ skip, const float* __restrict__ weight,
                 const float* __restrict__ mean, const float* __restrict__ rstd, const float* __restrict__ gamma,
                 const float* __restrict__ beta, const float* __restrict__ mask, const float* __restrict__ bias,
                 const float* __restrict__ shift, const float* residual, const float* residual2, float* y, float* y2,
                 Conv s) {
  constexpr int THREADS = 128 * PATCHES * SPLIT, DEPTH = 32, BK = DEPTH * SPLIT, STAGES = 3;
  constexpr int LENGTH = CHUNK<Math>, QUARTERS = LENGTH / 4, PLANES = BK / LENGTH, PARTS = Math::PARTS;
  constexpr int COLUMN = BN + 1, FILTER = PLANES * COLUMN;  // a plane of weights, and all of a part
  constexpr bool BF16 = LENGTH == 8;
  // What a thread turns round at once: a chunk of one output, or of four that lie beside one another
  constexpr int BLOCKS = (BY_COLUMNS ? BN : BN / 4) * PLANES, COPIES = BY_COLUMNS ? QUARTERS : LENGTH;
  static_assert(THREADS % PLANES == 0, "a thread's chunks are all of the same channels");
  DYNAMIC_SHARED(Cell, memory);
  const int thread = threadIdx.x, lane = thread & 31, group = thread >> 7;
  const int patch = group % PATCHES, part = group / PATCHES;
  const Norm norm = {mean, rstd, gamma, beta, mask};
  const Phase phase = s.phase[blockIdx.z];
  const int channels = s.first + s.second, outputs = s.one + s.two, panels = (outputs + BN - 1) / BN;
  const int k0 = blockIdx.x % panels * BN;
  const Place tile = tile_origin(blockIdx.x / panels, s), origin = halo_origin(tile, s, phase, 0, 0);
  const Seen seen(s);
  const int slot_size = PARTS * PLANES * seen.plane, units = seen.pixels * PLANES;
  Cell* raw = memory + s.slots * slot_size;
  Cell* filters = raw + units * QUARTERS;
  Cell* raw_filters = filters + STAGES * PARTS * FILTER;
  int* places = (int*)(raw_filters + RAW * BLOCKS * COPIES);
  for (int q = thread; q < seen.pixels; q += THREADS) {
    const Place at = place_in(q, s.halo_rows, seen.pitch);
    const int column = seen.column_of(at.column, s.in_step);
    places[q] = column < s.halo_columns ? pack(at.image, at.row, column) : -1;
  }
  __syncthreads();
  auto pixel_of = [&](int q) { return places[q] < 0 ? -1 : input_pixel(plus(origin, unpack(places[q])), s); };

  // A slice of channels from memory to `raw`, and from there to cells, each unit by one thread
  auto fetch_slice = [&](int slice) {
    for (int u = thread; u < units; u += THREADS) {
      const long long pixel = pixel_of(u / PLANES);
#pragma unroll
      for (int quarter = 0; quarter < QUARTERS; quarter++) {
        const int c = slice * BK + u % PLANES * LENGTH + quarter * 4;
        const bool there = pixel >= 0 && c < channels;
        const float* from = c < s.first ? x + pixel * s.first + c : skip + pixel * s.second + c - s.first;
        copy_async16(raw + quarter * units + u, there ? from : x, there);
      }
    }
  };
  auto keep_slice = [&](int slice, Cell* slot) {
    const int c = slice * BK + thread % PLANES * LENGTH;
    float scale[LENGTH], offset[LENGTH];
    int channel_group[LENGTH];
    const bool one_group = s.group_width % LENGTH == 0;
    if constexpr (NORM) {
#pragma unroll
      for (int e = 0; e < LENGTH; e++) {
        const int channel = min(c + e, channels - 1);
        scale[e] = gamma[channel], offset[e] = beta[channel], channel_group[e] = channel / s.group_width;
      }
    }
    for (int u = thread; u < units; u += THREADS) {
      float v[LENGTH];
#pragma unroll
      for (int quarter = 0; quarter < QUARTERS; quarter++) {
        const Vector<float, 4> four = Vector<float, 4>::load((const float*)(raw + quarter * units + u));
#pragma unroll
        for (int e = 0; e < 4; e++) v[quarter * 4 + e] = four.at[e];
      }
      if constexpr (NORM) {
        const int q = u / PLANES;
        const long long pixel = pixel_of(q);
        if (pixel >= 0) {
          const int first_group = (origin.image + unpack(places[q]).image) * s.groups;
          float mean_of = 0.f, rstd_of = 0.f;
#pragma unroll
          for (int e = 0; e < LENGTH; e++) {
            if (e == 0 || !one_group) {
              mean_of = norm.mean[first_group + channel_group[e]];
              rstd_of = norm.rstd[first_group + channel_group[e]];
            }
            v[e] = silu_of((v[e] - mean_of) * (rstd_of * scale[e]) + offset[e]);
          }
#pragma unroll
          for (int quarter = 0; quarter < QUARTERS; quarter++) {  // channels are a multiple of 4
            const bool there = c + quarter * 4 < channels;
            Vector<float, 4> kept = {{1.f, 1.f, 1.f, 1.f}};
            if (mask && there) kept = Vector<float, 4>::load(mask + pixel * channels + c + quarter * 4);
#pragma unroll
            for (int e = 0; e < 4; e++) v[quarter * 4 + e] = there ? v[quarter * 4 + e] * kept.at[e] : 0.f;
          }
        }
      }
      store_cell<Math>(slot + u % PLANES * seen.plane + u / PLANES, PLANES * seen.plane, v);
    }
  };

  // The weights of a step, a tap of a slice, likewise
  const int taps = phase.down * phase.right, slices = (channels + BK - 1) / BK, steps = slices * taps;
  auto fetch_weights = [&](int step) {
    const int slice = step / taps, tap = step % taps;
    const int number = phase.tap + tap / phase.right * phase.tap_down + tap % phase.right * phase.tap_right;
    const float* of_tap = weight + (long long)number * channels * outputs;
    Cell* to = raw_filters + step % RAW * BLOCKS * COPIES;
    for (int u = thread; u < BLOCKS; u += THREADS) {
      // Where this thread's block begins; neighbours follow one another in memory as far as a sector reaches
      const int plane = BY_COLUMNS ? u % PLANES : u / 4 % PLANES;
      const int column = BY_COLUMNS ? u / PLANES : (u / (4 * PLANES) * 4 + u % 4) * 4;
      const int depth = slice * BK + plane * LENGTH;
#pragma unroll
      for (int i = 0; i < COPIES; i++) {
        const int c = depth + (BY_COLUMNS ? i * 4 : i), k = k0 + column;
        const int row = BY_COLUMNS ? k : c, at = BY_COLUMNS ? c : k;
        const int rows = BY_COLUMNS ? outputs : channels, length = BY_COLUMNS ? channels : outputs;
        const float* from = of_tap + (long long)row * length + at;
        auto source = [&](int e) { return row < rows && at + e < length ? from + e : nullptr; };
        if (s.vector_weights) copy_chunk<true>((float*)(to + i * BLOCKS + u), weight, source);
        else copy_chunk<false>((float*)(to + i * BLOCKS + u), weight, source);
      }
    }
  };
  auto keep_weights = [&](int step) {
    const Cell* from = raw_filters + step % RAW * BLOCKS * COPIES;
    Cell* to = filters + step % STAGES * PARTS * FILTER;
    for (int u = thread; u < BLOCKS; u += THREADS) {
      float block[COPIES][4];
#pragma unroll
      for (int i = 0; i < COPIES; i++) {
        const Vector<float, 4> four = Vector<float, 4>::load((const float*)(from + i * BLOCKS + u));
#pragma unroll
        for (int e = 0; e < 4; e++) block[i][e] = four.at[e];
      }
      const int plane = BY_COLUMNS ? u % PLANES : u / 4 % PLANES;
      const int column = BY_COLUMNS ? u / PLANES : (u / (4 * PLANES) * 4 + u % 4) * 4;
#pragma unroll
      for (int n = 0; n < (BY_COLUMNS ? 1 : 4); n++) {
        float v[LENGTH];
#pragma unroll
        for (int e = 0; e < LENGTH; e++) v[e] = BY_COLUMNS ? block[e / 4 % COPIES][e % 4] : block[e % COPIES][n];
        store_cell<Math>(to + plane * COLUMN + column + n, FILTER, v);
      }
    }
  };

  // Whether pixels of the tile are 64 PATCHES in a row, or patches of 8 x 8 below one another and in one image after another
  const bool flat = s.tile_rows * s.tile_images == 1;
  const int rows_apart = flat ? 8 : s.in_step * seen.pitch;
  const Place corner = place_in(patch * 64, s.tile_rows, s.tile_columns);
  const int first_cell = seen.cell_of(corner.image * s.halo_rows + corner.row * s.in_step, corner.column * s.in_step, s.in_step);

  fetch_slice(0);
#pragma unroll
  for (int step = 0; step < RAW; step++) {
    if (step < steps) fetch_weights(step);
    commit_group();  // an empty one too, so that the counts below are right
  }
  wait_group<RAW - 1>();
  if (steps > 0) keep_slice(0, memory), keep_weights(0);
  publish();
  __syncthreads();

  float sum[BN / 2];
  int row = 0, column = 0, slice = 0, slot = 0;
  for (int step = 0; step < steps; step++) {
    const bool first_tap = row == 0 && column == 0, last_tap = row == phase.down - 1 && column == phase.right - 1;
    const Cell* a = memory + slot * slot_size + part * (PLANES / SPLIT) * seen.plane + first_cell +
                    seen.cell_of(row, column, s.in_step);
    const Cell* b = filters + step % STAGES * PARTS * FILTER + part * (PLANES / SPLIT) * COLUMN;
    fence_group();
#pragma unroll
    for (int d = 0; d < PLANES / SPLIT; d += 2) {
      auto multiply_parts = [&](int i, int j, int keep) {
        multiply_group<BN, BF16>(sum, operand(a + (i * PLANES + d) * seen.plane, rows_apart, seen.plane),
                                 operand(b + j * FILTER + d * COLUMN, 8, COLUMN), keep);
      };
      const int keep = step > 0 || d > 0;
      if constexpr (PARTS == 2) multiply_parts(1, 0, keep), multiply_parts(0, 1, 1);  // the small products first
      multiply_parts(0, 0, PARTS == 2 || keep);
    }
    commit_products();
    // While they are under way: what comes later from memory, the next step's weights, and after the last tap its slice
    if (first_tap && slice + 1 < slices) fetch_slice(slice + 1);
    if (step + RAW < steps) fetch_weights(step + RAW);
    commit_group();
    wait_group<RAW - 1>();
    if (step + 1 < steps) keep_weights(step + 1);
    wait_products<1>();  // those of the step before, whose stage is written next
    publish();
    __syncthreads();
    if (++column == phase.right) column = 0, row++;
    if (last_tap) {
      row = 0;
      slice++;
      if (slice < slices) {
        if (taps < RAW) wait_group<0>();  // a slice that is so soon needed came with the last weights
        slot ^= 1;
        keep_slice(slice, memory + slot * slot_size);
        publish();
        __syncthreads();
      }
    }
  }
  wait_products<0>();
  if (steps == 0)
#pragma unroll
    for (int i = 0; i < BN / 2; i++) sum[i] = 0.f;
  wait_group<0>();  // empty groups only: no copy may be under way when a block ends

  if constexpr (SPLIT > 1) {
    float* others = (float*)memory;
    __syncthreads();  // nobody reads cells any more
    if (part > 0)
#pragma unroll
      for (int i = 0; i < BN / 2; i++) others[(((part - 1) * PATCHES + patch) * (BN / 2) + i) * 128 + thread % 128] = sum[i];
    __syncthreads();
    if (part > 0) return;
#pragma unroll
    for (int p = 1; p < SPLIT; p++)
#pragma unroll
      for (int i = 0; i < BN / 2; i++) sum[i] += others[(((p - 1) * PATCHES + patch) * (BN / 2) + i) * 128 + thread % 128];
  }

  const int warp = thread >> 5 & 3;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int m = patch * 64 + warp * 16 + half * 8 + (lane >> 2);
    const Place at = plus(tile, place_in(m, s.tile_rows, s.tile_columns));
    const long long pixel = output_pixel(at, s, phase);
    if (pixel < 0) continue;
    const float* of_image = shift ? shift + (long long)at.image * outputs : nullptr;
    auto store = [&](auto v, int k) {
      if (k >= outputs) return;
      const bool in_first = k < s.one;
      const long long to = in_first ? pixel * s.one + k : pixel * s.two + k - s.one;
      const float* more = in_first ? residual : residual2;
      constexpr int N = sizeof(v) / sizeof(float);
#pragma unroll
      for (int e = 0; e < N; e++) {
        if (bias) v.at[e] += bias[k + e];
        if (of_image) v.at[e] += of_image[k + e];
      }
      if (more) {
        const auto w = decltype(v)::load(more + to);
#pragma unroll
        for (int e = 0; e < N; e++) v.at[e] += w.at[e];
      }
      v.store((in_first ? y : y2) + to);
    };
#pragma unroll
    for (int j = 0; j < BN / 8; j++) {
      const float* two = sum + j * 4 + half * 2;
      const int k = k0 + j * 8 + (lane & 3) * 2;
      if (s.pairs) store(Vector<float, 2>{{two[0], two[1]}}, k);
      else store(Vector<float, 1>{{two[0]}}, k), store(Vector<float, 1>{{two[1]}}, k + 1);
    }
  }
}
