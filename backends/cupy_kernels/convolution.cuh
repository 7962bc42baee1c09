// What the kernels of a convolution share: its geometry, and the part of an image that a tile of output pixels sees.
//
// One description covers forward, both gradients, strides and up-sampling. An output pixel (r, c) of a phase lies at
//   (r out_step + row, c out_step + column)      and its tap (i, j) meets the input at
//   (r in_step + i - top, c in_step + j - left)  which counts as zero outside;
// the tap's weights are number  tap + i tap_down + j tap_right  of those in memory, each a matrix of channels x outputs.
// A convolution and its weight gradient have one phase. The input gradient of stride 2 has four, one for each parity of
// row and column, that share the taps among them, so that no zero is multiplied; after nearest x2 up-sampling, pixels of
// one parity see the same 2 x 2 small pixels, with weights summed accordingly, four ninths of the products.
#pragma once
#include "fragments.cuh"
#include "activation.cuh"

struct Phase {
  int down, right;  // taps
  int top, left;
  int tap, tap_down, tap_right;
  int row, column;
};

struct Conv {
  int images, height, width, first, second;      // input, and its channels: those of x, and of skip that follow them
  int out_height, out_width, one, two;           // output, and its channels: those of y, and of a second array
  int in_step, out_step;
  int tile_images, tile_rows, tile_columns;      // of output pixels of a phase: a block's tile
  int tiles_down, tiles_across;
  int halo_rows, halo_columns;                   // what a tile sees of an image
  int slots;                                     // slices of the halo that have room in shared memory
  int vector_weights;                            // whether weights can be copied 16 bytes at a time
  int pairs;                                     // whether neighbouring outputs can be stored two at a time
  int groups, group_width;                       // of a normalisation, and channels of a group
  Phase phase[4];
};

// What is applied to an input where it is loaded: mask silu((x - mean) rstd gamma + beta)
struct Norm {
  const float* mean;   // (images, groups)
  const float* rstd;   // (images, groups)
  const float* gamma;  // (channels,)
  const float* beta;   // (channels,)
  const float* mask;   // as the input joined along channels, or null
};

struct Place {
  int image, row, column;
};

__device__ __forceinline__ int pack(int image, int row, int column) { return image << 20 | row << 10 | column; }
__device__ __forceinline__ Place unpack(int word) { return {word >> 20, word >> 10 & 1023, word & 1023}; }

__device__ __forceinline__ Place place_in(int number, int rows, int columns) {
  return {number / (rows * columns), number / columns % rows, number % columns};
}

// The number of an input pixel, counted through all images; -1 where there is none
__device__ __forceinline__ int input_pixel(const Place& at, const Conv& s) {
  const bool inside = at.image < s.images && (unsigned)at.row < (unsigned)s.height && (unsigned)at.column < (unsigned)s.width;
  return inside ? (at.image * s.height + at.row) * s.width + at.column : -1;
}

// The same of an output pixel, (row, column) counted within the phase
__device__ __forceinline__ int output_pixel(const Place& at, const Conv& s, const Phase& phase) {
  const int row = at.row * s.out_step + phase.row, column = at.column * s.out_step + phase.column;
  const bool inside = at.image < s.images && row < s.out_height && column < s.out_width;
  return inside ? (at.image * s.out_height + row) * s.out_width + column : -1;
}

__device__ __forceinline__ Place plus(const Place& a, const Place& b) {
  return {a.image + b.image, a.row + b.row, a.column + b.column};
}

// First pixel of tile number `tile`, in output pixels of a phase
__device__ __forceinline__ Place tile_origin(int tile, const Conv& s) {
  const Place at = place_in(tile, s.tiles_down, s.tiles_across);
  return {at.image * s.tile_images, at.row * s.tile_rows, at.column * s.tile_columns};
}

// Where a halo begins in the input, the taps from (i, j) on
__device__ __forceinline__ Place halo_origin(const Place& tile, const Conv& s, const Phase& phase, int i, int j) {
  return {tile.image, tile.row * s.in_step + i - phase.top, tile.column * s.in_step + j - phase.left};
}

// A slice of a halo: CHANNELS channels of all its pixels, rows PITCH apart in shared memory. places: its pixels, packed
template <int CHANNELS, int PITCH, int THREADS, bool ALIGNED> struct Halo {
  static constexpr int CHUNKS = CHANNELS / 4;

  static __device__ __forceinline__ void list_places(int* places, const Conv& s) {
    const int pixels = s.tile_images * s.halo_rows * s.halo_columns;
    for (int q = threadIdx.x; q < pixels; q += THREADS) {
      const Place at = place_in(q, s.halo_rows, s.halo_columns);
      places[q] = pack(at.image, at.row, at.column);
    }
  }

  // Begins the copy of the channels from c0 on
  static __device__ __forceinline__ void
  fetch(float* to, const int* places, const Place& origin, int c0, const float* x, const float* skip, const Conv& s) {
    const int chunks = s.tile_images * s.halo_rows * s.halo_columns * CHUNKS, channels = s.first + s.second;
    for (int u = threadIdx.x; u < chunks; u += THREADS) {
      const int q = u / CHUNKS, in_slice = u % CHUNKS * 4, c = c0 + in_slice;
      const long long pixel = input_pixel(plus(origin, unpack(places[q])), s);
      copy_chunk<ALIGNED>(to + q * PITCH + in_slice, x, [&](int e) -> const float* {
        if (pixel < 0 || c + e >= channels) return nullptr;
        return c + e < s.first ? x + pixel * s.first + c + e : skip + pixel * s.second + c + e - s.first;
      });
    }
  }

  // Applies the normalisation to what this thread has copied, once that has arrived. Zeros around the image stay zeros.
  // A thread's chunks are all of the same channels
  static __device__ __forceinline__ void
  normalise(float* slice, const int* places, const Place& origin, int c0, const Norm& norm, const Conv& s) {
    static_assert(THREADS % CHUNKS == 0, "a thread's chunks are all of the same channels");
    const int of_image = s.halo_rows * s.halo_columns * CHUNKS, channels = s.first + s.second;
    const int in_slice = threadIdx.x % CHUNKS * 4, c = c0 + in_slice;
    if (c >= channels) return;
    int u = threadIdx.x;
    for (int image = 0; image < s.tile_images && origin.image + image < s.images; image++) {
      float centre[4], scale[4], offset[4];
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int channel = min(c + e, channels - 1), g = (origin.image + image) * s.groups + channel / s.group_width;
        centre[e] = norm.mean[g], scale[e] = norm.rstd[g] * norm.gamma[channel], offset[e] = norm.beta[channel];
      }
      for (; u < (image + 1) * of_image; u += THREADS) {
        const long long pixel = input_pixel(plus(origin, unpack(places[u / CHUNKS])), s);
        if (pixel < 0) continue;
        float* to = slice + u / CHUNKS * PITCH + in_slice;
        Vector<float, 4> h = Vector<float, 4>::load(to);
#pragma unroll
        for (int e = 0; e < 4; e++) h.at[e] = silu_of((h.at[e] - centre[e]) * scale[e] + offset[e]);
        if (norm.mask) {
          const float* mask = norm.mask + pixel * channels + c;
          if constexpr (ALIGNED) {
            const Vector<float, 4> kept = Vector<float, 4>::load(mask);
#pragma unroll
            for (int e = 0; e < 4; e++) h.at[e] *= kept.at[e];
          } else {
#pragma unroll
            for (int e = 0; e < 4; e++) h.at[e] *= c + e < channels ? mask[e] : 0.f;
          }
        }
        if (!ALIGNED)
#pragma unroll
          for (int e = 0; e < 4; e++) h.at[e] = c + e < channels ? h.at[e] : 0.f;
        h.store(to);
      }
    }
  }
};
