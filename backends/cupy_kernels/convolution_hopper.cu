// The convolution of convolution.cu by warpgroups: for Hopper alone, on images whose pixels come in patches of 8 x 8.
//
// Idea   A warpgroup makes a patch of 8 x 8 output pixels x BN outputs by wgmma, which reads both operands from shared memory.
//        There a slice of BK channels of what the block sees is kept as planes of cells (warpgroup.cuh): a tap is another
//        first cell, and no operand is ever copied for it. A step is TAPS taps of a slice. While the tensor cores are at
//        one, each thread rounds, normalises (GroupNorm + SiLU + dropout) or turns round what it has asked memory for
//        before, and stores it as cells for the next: weights come by cp.async to places that this thread alone knows,
//        AHEAD steps before, the next slice of the image by registers. So a step has one barrier. PATCHES warpgroups of a
//        block share weights, SPLIT of them share the channels of a slice and add their sums at the end: for images so few
//        that a multiprocessor would have little else to do.
// Shapes as convolution.cu's, except that channels are multiples of 4 and pixels lie in patches: a tile is 8 pixels wide, or
//        for products (flat geometry) 64 PATCHES. At a stride of two even columns come first, then odd ones.
// Limit  32 channels of a tap x BN outputs take 2 BN cycles of the tensor core, and what turns weights round about as
//        long at BN = 64: half of the peak of TF32 where channels are many.
// Resident convolve_patches 1 of 128, 1 of 256, 1 of 512
#include "convolution.cuh"
#include "warpgroup.cuh"

// Rows and columns of a kernel: LARGEST_KERNEL of convolution.py
constexpr int MOST_TAPS = 49;

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
// shared memory, in cells: slots x PARTS planes of the image, 2 stages of TAPS x PARTS planes of weights, AHEAD of raw ones;
// then a word for each pixel and two for each tap. At the end the sums of all but the first of SPLIT
template <class Math, int BN, int PATCHES, int SPLIT, int TAPS, int AHEAD, bool BY_COLUMNS, bool NORM>
__global__ void __launch_bounds__(128 * PATCHES * SPLIT, BN > 32 || Math::PARTS == 2 ? 1 : 4 / (PATCHES * SPLIT))
convolve_patches(const float* __restrict__ x, const float* __restrict__ skip, const float* __restrict__ weight,
                 const float* __restrict__ mean, const float* __restrict__ rstd, const float* __restrict__ gamma,
                 const float* __restrict__ beta, const float* __restrict__ mask, const float* __restrict__ bias,
                 const float* __restrict__ shift, const float* residual, const float* residual2, float* y, float* y2,
                 Conv s) {
  constexpr int THREADS = 128 * PATCHES * SPLIT, DEPTH = 32, BK = DEPTH * SPLIT;
  constexpr int LENGTH = CHUNK<Math>, QUARTERS = LENGTH / 4, PLANES = BK / LENGTH, PARTS = Math::PARTS;
  constexpr int COLUMN = BN + 1, FILTER = PLANES * COLUMN;  // a plane of weights, and all of a tap and part
  constexpr bool BF16 = LENGTH == 8;
  // What a thread turns round at once: a chunk of one output, or of four that lie beside one another
  constexpr int OF_TAP = (BY_COLUMNS ? BN : BN / 4) * PLANES, BLOCKS = TAPS * OF_TAP;
  constexpr int COPIES = BY_COLUMNS ? QUARTERS : LENGTH;
  constexpr int HELD = 8 / QUARTERS;  // units of a slice that a thread holds in registers
  static_assert(THREADS % PLANES == 0, "a thread's chunks are all of the same channels");
  DYNAMIC_SHARED(Cell, memory);
  const int thread = threadIdx.x, lane = thread & 31, group = thread >> 7;
  const int patch = group % PATCHES, part = group / PATCHES;
  const Phase phase = s.phase[blockIdx.z];
  const int channels = s.first + s.second, outputs = s.one + s.two, panels = (outputs + BN - 1) / BN;
  const int k0 = blockIdx.x % panels * BN;
  const Place tile = tile_origin(blockIdx.x / panels, s);
  const Seen seen(s);
  const int slot_size = PARTS * PLANES * seen.plane;
  Cell* filters = memory + s.slots * slot_size;
  Cell* raw = filters + 2 * TAPS * PARTS * FILTER;
  int* pixels = (int*)(raw + AHEAD * BLOCKS * COPIES);  // where each is in the input; -1 for a zero
  int* tap_cells = pixels + seen.pixels;
  int* tap_numbers = tap_cells + MOST_TAPS;
  const int taps = phase.down * phase.right, slices = (channels + BK - 1) / BK;
  const int steps_each = (taps + TAPS - 1) / TAPS, steps = slices * steps_each;
  {
    const Place origin = halo_origin(tile, s, phase, 0, 0);
    for (int q = thread; q < seen.pixels; q += THREADS) {
      const Place at = place_in(q, s.halo_rows, seen.pitch);
      const int column = seen.column_of(at.column, s.in_step);
      pixels[q] = column < s.halo_columns ? input_pixel(plus(origin, {at.image, at.row, column}), s) : -1;
    }
    for (int tap = thread; tap < taps; tap += THREADS) {
      const int row = tap / phase.right, column = tap % phase.right;
      tap_cells[tap] = seen.cell_of(row, column, s.in_step);
      tap_numbers[tap] = phase.tap + row * phase.tap_down + column * phase.tap_right;
    }
  }
  __syncthreads();

  // Units of a slice: a chunk of channels, of one pixel; HELD of them at a time from memory to registers, and from there to
  // cells. All of a thread are of the same channels
  const int plane = thread % PLANES, first_pixel = thread / PLANES;
  constexpr int PIXELS_EACH = THREADS / PLANES, BATCH = HELD * PIXELS_EACH;
  Vector<float, 4> held[HELD][QUARTERS];
  auto load_units = [&](int slice, int batch) {
#pragma unroll
    for (int h = 0; h < HELD; h++) {
      const int q = batch * BATCH + h * PIXELS_EACH + first_pixel;
      const long long pixel = q < seen.pixels ? pixels[q] : -1;
#pragma unroll
      for (int quarter = 0; quarter < QUARTERS; quarter++) {
        const int c = slice * BK + plane * LENGTH + quarter * 4;
        held[h][quarter] = {};
        if (pixel < 0 || c >= channels) continue;
        const float* from = c < s.first ? x + pixel * s.first + c : skip + pixel * s.second + c - s.first;
        held[h][quarter] = Vector<float, 4>::load(from);
      }
    }
  };
  auto store_units = [&](int slice, int batch, Cell* slot) {
    const int c = slice * BK + plane * LENGTH;
    const int of_image = s.halo_rows * seen.pitch;
    for (int number = 0; number < (NORM ? s.tile_images : 1); number++) {
      // What a group is shifted by, then what a channel is scaled and shifted by
      float centre[LENGTH], scale[LENGTH], offset[LENGTH];
      if constexpr (NORM) {
        const int image = min(tile.image + number, s.images - 1);
#pragma unroll
        for (int e = 0; e < LENGTH; e++) {
          const int channel = min(c + e, channels - 1), g = image * s.groups + channel / s.group_width;
          centre[e] = mean[g], scale[e] = rstd[g] * gamma[channel], offset[e] = beta[channel];
        }
      }
#pragma unroll
      for (int h = 0; h < HELD; h++) {
        const int q = batch * BATCH + h * PIXELS_EACH + first_pixel;
        if (q >= seen.pixels || (NORM && (q < number * of_image || q >= (number + 1) * of_image))) continue;
        float v[LENGTH];
#pragma unroll
        for (int e = 0; e < LENGTH; e++) v[e] = held[h][e / 4].at[e % 4];
        if constexpr (NORM) {
          const long long pixel = pixels[q];
          if (pixel >= 0) {
#pragma unroll
            for (int quarter = 0; quarter < QUARTERS; quarter++) {  // channels are a multiple of 4
              const bool there = c + quarter * 4 < channels;
              Vector<float, 4> kept = {{1.f, 1.f, 1.f, 1.f}};
              if (mask && there) kept = Vector<float, 4>::load(mask + pixel * channels + c + quarter * 4);
#pragma unroll
              for (int i = 0; i < 4; i++) {
                const int e = quarter * 4 + i;
                v[e] = there ? silu_of((v[e] - centre[e]) * scale[e] + offset[e]) * kept.at[i] : 0.f;
              }
            }
          }
        }
        store_cell<Math>(slot + plane * seen.plane + q, PLANES * seen.plane, v);
      }
    }
  };
  const int batches = (seen.pixels + BATCH - 1) / BATCH;

  // The weights of a step, whose first tap is `tap`
  const long long matrix = (long long)channels * outputs;
  auto fetch_weights = [&](int slice, int tap, int place) {
    Cell* to = raw + place * BLOCKS * COPIES;
#pragma unroll
    for (int first = 0; first < BLOCKS; first += THREADS) {
      const int u = first + thread, v = u % OF_TAP;
      if ((BLOCKS % THREADS && u >= BLOCKS) || (TAPS > 1 && tap + u / OF_TAP >= taps)) break;
      const float* of_tap = weight + tap_numbers[tap + u / OF_TAP] * matrix;
      // Neighbours follow one another in memory as far as a sector reaches
      const int column = BY_COLUMNS ? v / PLANES : (v / (4 * PLANES) * 4 + v % 4) * 4;
      const int depth = slice * BK + (BY_COLUMNS ? v % PLANES : v / 4 % PLANES) * LENGTH, k = k0 + column;
#pragma unroll
      for (int i = 0; i < COPIES; i++) {
        const int c = depth + (BY_COLUMNS ? i * 4 : i), row = BY_COLUMNS ? k : c, at = BY_COLUMNS ? c : k;
        const int rows = BY_COLUMNS ? outputs : channels, length = BY_COLUMNS ? channels : outputs;
        const float* from = of_tap + (long long)row * length + at;
        auto source = [&](int e) { return row < rows && at + e < length ? from + e : nullptr; };
        if (s.vector_weights) copy_chunk<true>((float*)(to + i * BLOCKS + u), weight, source);
        else copy_chunk<false>((float*)(to + i * BLOCKS + u), weight, source);
      }
    }
  };
  auto keep_weights = [&](int tap, int place, Cell* stage) {
    const Cell* from = raw + place * BLOCKS * COPIES;
#pragma unroll
    for (int first = 0; first < BLOCKS; first += THREADS) {
      const int u = first + thread, v = u % OF_TAP;
      if ((BLOCKS % THREADS && u >= BLOCKS) || (TAPS > 1 && tap + u / OF_TAP >= taps)) break;
      float block[COPIES][4];
#pragma unroll
      for (int i = 0; i < COPIES; i++) {
        const Vector<float, 4> four = Vector<float, 4>::load((const float*)(from + i * BLOCKS + u));
#pragma unroll
        for (int e = 0; e < 4; e++) block[i][e] = four.at[e];
      }
      const int column = BY_COLUMNS ? v / PLANES : (v / (4 * PLANES) * 4 + v % 4) * 4;
      Cell* to = stage + u / OF_TAP * PARTS * FILTER + (BY_COLUMNS ? v % PLANES : v / 4 % PLANES) * COLUMN + column;
#pragma unroll
      for (int n = 0; n < (BY_COLUMNS ? 1 : 4); n++) {
        float w[LENGTH];
#pragma unroll
        for (int e = 0; e < LENGTH; e++) w[e] = BY_COLUMNS ? block[e / 4 % COPIES][e % 4] : block[e % COPIES][n];
        store_cell<Math>(to + n, FILTER, w);
      }
    }
  };

  // Whether pixels of the tile are 64 PATCHES in a row, or patches of 8 x 8 below one another and in one image after another
  const bool flat = s.tile_rows * s.tile_images == 1;
  const Place corner = place_in(patch * 64, s.tile_rows, s.tile_columns);
  const int first_cell = seen.cell_of(corner.image * s.halo_rows + corner.row * s.in_step, corner.column * s.in_step, s.in_step);
  const unsigned long long image_operand = operand(memory + part * (PLANES / SPLIT) * seen.plane + first_cell,
                                                   flat ? 8 : s.in_step * seen.pitch, seen.plane);
  const unsigned long long filter_operand = operand(filters + part * (PLANES / SPLIT) * COLUMN, 8, COLUMN);

  // A step, by its slice and first tap
  struct Step {
    int slice, tap;
    __device__ __forceinline__ void next(int taps) {
      tap += TAPS;
      if (tap >= taps) tap = 0, slice++;
    }
  };
  Step coming = {0, 0}, kept = {0, 0};
#pragma unroll
  for (int place = 0; place < AHEAD; place++) {
    if (coming.slice < slices && taps) fetch_weights(coming.slice, coming.tap, place);
    coming.next(taps);
    commit_group();  // an empty one too, so that the counts below are right
  }
  if (taps)
    for (int batch = 0; batch < batches; batch++) load_units(0, batch), store_units(0, batch, memory);
  wait_group<AHEAD - 1>();
  if (taps) keep_weights(0, 0, filters);
  kept.next(taps);
  if (coming.slice < slices && taps) fetch_weights(coming.slice, coming.tap, 0);
  coming.next(taps);
  commit_group();
  publish();
  __syncthreads();

  float sum[BN / 2];
  int slice = 0, tap = 0, place = AHEAD > 1 ? 1 : 0;
  for (int step = 0; step < steps; step++) {
    const bool last = tap + TAPS >= taps && slice + 1 < slices;  // of a slice that another follows
    if (last) load_units(slice + 1, 0);
    fence_group();
#pragma unroll
    for (int i = 0; i < TAPS; i++) {
      if (TAPS > 1 && tap + i >= taps) break;
      const unsigned long long a = image_operand + (slice & 1) * slot_size + tap_cells[tap + i];
      const unsigned long long b = filter_operand + ((step & 1) * TAPS + i) * PARTS * FILTER;
#pragma unroll
      for (int d = 0; d < PLANES / SPLIT; d += 2) {
        auto multiply_parts = [&](int of_a, int of_b, int keep) {
          multiply_group<BN, BF16>(sum, a + (of_a * PLANES + d) * seen.plane, b + of_b * FILTER + d * COLUMN, keep);
        };
        const int keep = step > 0 || i > 0 || d > 0;
        if constexpr (PARTS == 2) multiply_parts(1, 0, keep), multiply_parts(0, 1, 1);  // the small products first
        multiply_parts(0, 0, PARTS == 2 || keep);
      }
    }
    commit_products();
    if (step + 1 < steps) {  // while they are under way
      wait_group<AHEAD - 1>();
      keep_weights(kept.tap, place, filters + ((step + 1) & 1) * TAPS * PARTS * FILTER);
      kept.next(taps);
      if (coming.slice < slices) fetch_weights(coming.slice, coming.tap, place);
      coming.next(taps);
      commit_group();
      if (AHEAD > 1 && ++place == AHEAD) place = 0;
      if (last) {
        Cell* slot = memory + ((slice + 1) & 1) * slot_size;
        store_units(slice + 1, 0, slot);
        for (int batch = 1; batch < batches; batch++) load_units(slice + 1, batch), store_units(slice + 1, batch, slot);
      }
    }
    wait_products<0>();
    publish();
    __syncthreads();
    tap += TAPS;
    if (tap >= taps) tap = 0, slice++;
  }
  if (steps == 0)
#pragma unroll
    for (int i = 0; i < BN / 2; i++) sum[i] = 0.f;
  wait_group<0>();  // empty groups only: no copy may be under way when a block ends

  if constexpr (SPLIT > 1) {
    float* others = (float*)memory;  // whose cells nobody reads any more
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
