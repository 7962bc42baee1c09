// Operands of tensor-core products whose slices lie in shared memory in more ways than tile.cuh's: rows at addresses of
// their own (the pixels that a tap meets), either operand with its depth along or across its rows, and bfloat16 products
// of numbers that are float32 in memory.
//
// A Fragments<Math> of 16 rows of A holds four words a part, of 8 columns of B two, as tile.cuh says. In units of eight in
// depth the lane g, t (lane / 4, lane % 4) takes the depths t and t + 4. For bfloat16 two units make one instruction, and
// the words hold the pairs (t, t + 4) of the first, then of the second: another order of depth than the manual's, but the
// same for A and B, and a sum has no order.
#pragma once
#include "tile.cuh"

// Products of bfloat16, rounded when they are taken from float32 memory: error 3e-3
struct Rounded {
  typedef float In;
  static constexpr int DEPTH = 16, PARTS = 1;
};

// Two floats as bfloat16, the first in the low half
__device__ __forceinline__ uint32_t pair_bf16(float low, float high) {
#ifdef __CUDA_ARCH__
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
#else
  return (uint32_t)to_bf16(low).bits | (uint32_t)to_bf16(high).bits << 16;
#endif
}

// What one instruction of Math takes of depth, in units of eight
template <class Math> constexpr int UNITS = Math::DEPTH / 8;

// Floats as they were loaded -> operands. WORDS: 4 for A, 2 for B; raw[unit][word]; of B the pair of depths t, t + 4 are
// words 0 and 1, of A words 0 and 2 (rows g) and 1 and 3 (rows g + 8)
template <class Math, int WORDS> struct Fragment {
  uint32_t part[Math::PARTS][WORDS];

  __device__ __forceinline__ void take(const float (&raw)[UNITS<Math>][WORDS]) {
    if constexpr (UNITS<Math> == 2) {
#pragma unroll
      for (int unit = 0; unit < 2; unit++)
#pragma unroll
        for (int e = 0; e < WORDS / 2; e++)
          part[0][unit * (WORDS / 2) + e] = pair_bf16(raw[unit][e], raw[unit][e + WORDS / 2]);
    } else {
#pragma unroll
      for (int e = 0; e < WORDS; e++) {
        part[0][e] = tf32(raw[0][e]);
        if constexpr (Math::PARTS == 2) part[1][e] = tf32(raw[0][e] - __uint_as_float(part[0][e]));
      }
    }
  }
};

// sum (16 x 8) += a b, the small products of Split first
template <class Math>
__device__ __forceinline__ void multiply(float* sum, const Fragment<Math, 4>& a, const Fragment<Math, 2>& b) {
  if constexpr (UNITS<Math> == 2) {
    mma_bf16(sum, a.part[0], b.part[0]);
  } else {
    if constexpr (Math::PARTS == 2) {
      mma_tf32(sum, a.part[1], b.part[0]);
      mma_tf32(sum, a.part[0], b.part[1]);
    }
    mma_tf32(sum, a.part[0], b.part[0]);
  }
}

__device__ __forceinline__ void load_matrices(float* raw, const float* row) {
  uint32_t words[4];
  ldmatrix4(words, row);
#pragma unroll
  for (int e = 0; e < 4; e++) raw[e] = __uint_as_float(words[e]);
}

// A by rows. row: of this lane, number lane % 16 of the sixteen, wherever it lies, plus lane / 16 * 4 in depth
template <class Math> __device__ __forceinline__ void load_a_rows(Fragment<Math, 4>& a, const float* row) {
  float raw[UNITS<Math>][4];
#pragma unroll
  for (int unit = 0; unit < UNITS<Math>; unit++) load_matrices(raw[unit], row + unit * 8);
  a.take(raw);
}

// A by depth. at[unit]: where depths t and t + 4 begin, at row g of the sixteen; beside: rows further on
template <class Math>
__device__ __forceinline__ void
load_a_depths(Fragment<Math, 4>& a, const float* const (&at)[UNITS<Math>][2], int beside) {
  float raw[UNITS<Math>][4];
#pragma unroll
  for (int unit = 0; unit < UNITS<Math>; unit++)
#pragma unroll
    for (int e = 0; e < 4; e++) raw[unit][e] = at[unit][e >> 1][beside + (e & 1) * 8];
  a.take(raw);
}

// B by depth: eight columns from from[depth * PITCH] on. raw: what was read, [unit][depth t, t + 4] of column g
template <class Math, int PITCH>
__device__ __forceinline__ void
load_b_depths(Fragment<Math, 2>& b, const float* from, int lane, float (&raw)[UNITS<Math>][2]) {
#pragma unroll
  for (int unit = 0; unit < UNITS<Math>; unit++)
#pragma unroll
    for (int e = 0; e < 2; e++) raw[unit][e] = from[(unit * 8 + (lane & 3) + e * 4) * PITCH + (lane >> 2)];
  b.take(raw);
}

// B by columns, depth along each: two fragments, of sixteen columns, from from[column * PITCH] on
template <class Math, int PITCH>
__device__ __forceinline__ void
load_b_columns(Fragment<Math, 2>& left, Fragment<Math, 2>& right, const float* from, int lane) {
  float raw[2][UNITS<Math>][2];
#pragma unroll
  for (int unit = 0; unit < UNITS<Math>; unit++) {
    float both[4];
    load_matrices(both, from + ((lane & 7) + (lane >> 4) * 8) * PITCH + unit * 8 + (lane >> 3 & 1) * 4);
#pragma unroll
    for (int e = 0; e < 4; e++) raw[e >> 1][unit][e & 1] = both[e];
  }
  left.take(raw[0]);
  right.take(raw[1]);
}
